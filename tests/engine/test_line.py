"""A network becomes a line of stages, and the maps of the line share few buffers."""

import pytest
import torch

from famkern.engine import lower
from famkern.engine.line import IMAGE, OUTPUT
from famkern.engine.plan import share_buffers
from famkern.models import Student
from famkern.models.student import IMAGE_MEAN, IMAGE_STD

NUMBERS = [(1, 1), (3, 1), (4, 1), (1, 4), (2, 1), (3, 6), (3, 19), (5, 2)]


def line_of(groups, blocks):
    tensors = Student(16, groups, blocks).state_dict()
    numbers = {"channels": 16, "groups": groups, "blocks": blocks}
    where = {"dtype": torch.float32, "device": torch.device("cpu")}
    return lower(tensors, **numbers, mean=IMAGE_MEAN, std=IMAGE_STD, **where)


def test_the_student_is_twenty_stages_with_nineteen_barriers_in_four_buffers():
    line = line_of(3, 6)
    assert len(line) == 20
    assert sum(stage.gate is not None for stage in line) == 19
    assert len(set(share_buffers(line).values())) == 4


@pytest.mark.parametrize(("groups", "blocks"), NUMBERS)
def test_every_convolution_of_the_network_is_in_one_stage(groups, blocks):
    line = line_of(groups, blocks)
    assert len(line) == groups * blocks + 2
    assert sum(stage.convolutions for stage in line) == 1 + groups * (2 * blocks + 1) + 2


@pytest.mark.parametrize(("groups", "blocks"), NUMBERS)
def test_every_map_is_written_once_before_it_is_read(groups, blocks):
    known, sums = {IMAGE}, set()
    for stage in line_of(groups, blocks):
        assert set(stage.reads) <= known
        assert not known & set(stage.writes)
        assert stage.gate is None or set(stage.gate.means) <= sums
        known |= set(stage.writes)
        sums |= set(stage.sums)
    assert OUTPUT in known


@pytest.mark.parametrize(("groups", "blocks"), NUMBERS)
def test_a_buffer_is_taken_only_from_a_map_that_dies_and_lies_on_the_other_side(groups, blocks):
    line = line_of(groups, blocks)
    buffers = share_buffers(line)
    holder = {}  # buffer -> (map, stage that wrote it)
    for index, stage in enumerate(line):
        for name in stage.reads:
            assert name == IMAGE or holder[buffers[name]][0] == name, "a map was overwritten before its last reader"
        for name in stage.writes:
            if name != OUTPUT:
                before = holder.get(buffers[name])
                if before and before[0] in stage.reads:  # read and overwritten by the same sweep
                    assert before[1] % 2 != index % 2
                holder[buffers[name]] = (name, index)
    assert len(set(buffers.values())) <= max(3, groups + 1)


@pytest.mark.parametrize(("convolutions", "tile", "rows"), [(1, 1, 1), (3, 1, 3), (1, 4, 1), (2, 4, 5), (3, 4, 9)])
def test_the_halo_is_the_reach_rounded_up_to_whole_tiles(convolutions, tile, rows):
    stage = next(stage for stage in line_of(2, 2) if stage.convolutions == convolutions)
    assert stage.halo(tile) == rows
