"""A network becomes a line of stages."""

import pytest
import torch

from famkern.engine import lower
from famkern.engine.line import IMAGE, OUTPUT, PICTURES
from famkern.models import Student, UStudent
from famkern.models.student import IMAGE_MEAN, IMAGE_STD, fold_norm
from famkern.ops.kinds import KINDS

NUMBERS = [(1, 1), (3, 1), (4, 1), (1, 4), (2, 1), (3, 6), (3, 19), (5, 2)]


def lowered(model, dtype=torch.float32, maps=None):
    """The line of a network."""
    where = {"dtype": dtype, "maps": maps or dtype, "device": torch.device("cpu")}
    return lower(fold_norm(dict(model.state_dict())), mean=IMAGE_MEAN, std=IMAGE_STD, **where)


def line_of(groups, blocks, maps=torch.float32):
    return lowered(Student(16, groups, blocks), maps=maps)


US = [((16, 32, 64), (1, 2, 4, 2, 1)), ((16, 16), (1, 1, 1)), ((32, 16, 64, 16), (2, 1, 1, 3, 1, 2, 3))]


def lines():
    """Of every kind of network."""
    yield from (line_of(*numbers) for numbers in NUMBERS)
    yield from (lowered(UStudent(*numbers)) for numbers in US)


def test_the_student_is_twenty_stages_with_nineteen_barriers():
    line = line_of(3, 6)
    assert len(line.stages) == 20
    assert sum(stage.gate is not None for stage in line.stages) == 19


@pytest.mark.parametrize(("groups", "blocks"), NUMBERS)
def test_every_convolution_of_the_network_is_in_one_stage(groups, blocks):
    line = line_of(groups, blocks)
    assert len(line.stages) == groups * blocks + 2
    assert sum(stage.convolutions for stage in line.stages) == 1 + groups * (2 * blocks + 1) + 2


@pytest.mark.parametrize(("widths", "blocks"), US)
def test_a_u_has_every_convolution_too_and_every_level_its_channels(widths, blocks):
    line = lowered(UStudent(widths, blocks))
    assert sum(stage.convolutions for stage in line.stages) == 1 + sum(2 * count + 1 for count in blocks) + 1
    assert line.all_scales == tuple(2**level for level in range(len(widths)))
    for name, map_ in line.maps.items():
        if name not in PICTURES:
            assert map_.channels == widths[line.all_scales.index(map_.scale)]


def test_the_line_of_the_u():
    kinds = [stage.kind for stage in lowered(UStudent((16, 32, 64), (1, 2, 4, 2, 1))).stages]
    down = ["down", "block", "last_group", "down", "block", "block", "block", "last_group"]
    assert kinds == ["head", "last_group", *down, "up", "block", "last_group", "up", "u_tail"]


def test_every_stage_has_what_its_kind_says():
    for line in lines():
        for stage in line.stages:
            kind, sizes = KINDS[stage.kind], {}
            assert len(stage.writes) == len(kind.outputs)
            assert (stage.gate is not None) == kind.gated
            for weight, symbols in zip(stage.weights, kind.weights.values(), strict=True):
                for size, symbol in zip(weight.shape, symbols.split(), strict=True):
                    assert sizes.setdefault(symbol, int(symbol) if symbol.isdigit() else size) == size
            assert sizes.get("H", 0) * 8 == (sizes["C"] if "H" in sizes else 0)
            operands = [*kind.maps, *[kind.maps[-1]] * (len(stage.reads) - len(kind.maps))]
            scale = line.maps[stage.writes[0]].scale
            for name, operand in zip(stage.reads, operands, strict=True):
                map_ = line.maps[name]
                assert map_.scale == {"same": scale, "fine": scale / 2, "coarse": scale * 2}[operand.scale]
                assert map_.channels == (3 if operand.picture else sizes["C" if operand.scale == "same" else "I"])


def test_every_map_is_written_once_before_it_is_read():
    for line in lines():
        known, sums = {IMAGE}, set()
        for stage in line.stages:
            assert set(stage.reads) <= known
            assert not known & set(stage.writes)
            assert stage.gate is None or set(stage.gate.means) <= sums
            known |= set(stage.writes)
            sums |= set(stage.sums)
        assert OUTPUT in known
        assert known == set(line.maps)


def test_an_overflow_of_any_map_is_seen():
    """In a later mean, or in the map itself."""
    for line in lines():
        for name in set(line.maps) - set(PICTURES):
            readers = [stage for stage in line.stages if name in stage.reads]
            assert (name in line.unseen) == (not any(stage.sums for stage in readers))
    assert line_of(3, 6).unseen == {"r18"}


@pytest.mark.parametrize(("convolutions", "tile", "rows"), [(1, 1, 1), (3, 1, 3), (1, 4, 1), (2, 4, 5), (3, 4, 9)])
def test_the_halo_is_the_reach_rounded_up_to_whole_tiles(convolutions, tile, rows):
    stage = next(stage for stage in line_of(2, 2).stages if stage.convolutions == convolutions)
    assert stage.halo(tile) == rows
