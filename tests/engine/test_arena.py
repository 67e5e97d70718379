"""Maps share memory, and none is overwritten before it was read for the last time."""

import numpy as np
import pytest

from famkern.engine import make_plan
from famkern.engine.line import PICTURES
from famkern.models import UStudent

from .test_line import line_of, lines, lowered


def plan_of(line, height, width, tile, band):
    return make_plan(line, height, width, tile=tile, memory=None, available=1 << 40, band=band)


@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize(("height", "width", "band"), [(1, 1, 1), (3, 257, 1), (61, 5, 8), (97, 11, 40), (33, 20, 33)])
def test_no_row_is_overwritten_while_it_is_needed(height, width, band, tile):
    """The run of every line, on an arena that says of each byte which row of which map it holds."""
    for line in lines():
        plan = plan_of(line, height, width, tile, band)
        arena = np.full(plan.map_bytes, -1)
        number = {name: 1000 * i for i, name in enumerate(line.maps)}  # of the first row of each map

        def held(name, start, stop, arena=arena, plan=plan):
            return arena[plan.byte(name, start) : plan.byte(name, stop)].reshape(stop - start, plan.row_bytes(name))

        for index, stage in enumerate(line.stages):
            level, halo = plan.level(index), stage.halo(tile)
            for start, stop in plan.bands(index):
                read = []
                for name in set(stage.reads) - set(PICTURES):
                    rows = plan.level_of(name).rows(level, max(start - halo, 0), min(stop + halo, level.height))
                    assert (held(name, *rows) == number[name] + np.arange(*rows)[:, None]).all(), (name, rows)
                    read.append((plan.byte(name, rows[0]), plan.byte(name, rows[1])))
                for name in set(stage.writes) - set(PICTURES):
                    low, high = plan.byte(name, start), plan.byte(name, stop)
                    assert high <= plan.map_bytes
                    assert all(end <= low or high <= first for first, end in read), "outputs overlap what is read"
                    held(name, start, stop)[:] = number[name] + np.arange(start, stop)[:, None]


def test_the_first_and_the_last_stage_sweep_downwards():
    for line in lines():
        assert not line.arrangement.upwards[0]
        assert not line.arrangement.upwards[-1]


@pytest.mark.parametrize(("height", "width"), [(2160, 3840), (2159, 3837), (1080, 1921)])
def test_the_arena_is_no_larger_than_what_lives_at_once_and_slides(height, width):
    for line in lines():
        plan = plan_of(line, height, width, 4, 64)
        bytes_of = {name: plan.level_of(name).height * plan.row_bytes(name) for name in plan.places}
        alive = [
            sum(bytes_of[chain.names[0]] for chain in line.arrangement.chains if chain.first <= i <= chain.last)
            for i in range(len(line.stages))
        ]
        slide = plan.levels[1].slide / height + 0.01  # and what rounds up to whole pixels at the coarsest scale
        assert plan.map_bytes <= (1 + slide) * max(alive)


def test_the_student_lives_in_four_maps_and_the_u_in_fewer_than_three():
    for line, most in ((line_of(3, 6), 4), (lowered(UStudent()), 2.6)):
        plan = plan_of(line, 4000, 100, 1, 40)
        assert plan.map_bytes <= most * (4000 + plan.levels[1].slide) * 100 * 16 * 4
