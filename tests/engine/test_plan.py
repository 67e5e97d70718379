"""The plan keeps to the memory bound, covers the picture, and says what the least bound is."""

import pytest
import torch

from famkern.engine import MemoryBoundError, make_plan, parse_bytes
from famkern.models import UStudent

from .test_line import line_of, lowered

LINES = {"student": line_of(3, 6), "half": line_of(3, 6, torch.float16), "u": lowered(UStudent())}
GIB = 1 << 30


def plan_of(height, width, memory=None, *, line="student", tile=1, available=64 * GIB, band=None):
    return make_plan(LINES[line], height, width, tile=tile, memory=memory, available=available, band=band)


@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 257), (257, 3), (7, 100_000), (2160, 3840), (30_000, 200)])
@pytest.mark.parametrize("band", [None, 1, 5, 64, 10**6])
@pytest.mark.parametrize("line", ["student", "u"])
def test_bands_cover_every_row_once_and_are_whole_tiles(size, tile, band, line):
    plan = plan_of(*size, tile=tile, band=band, line=line)
    for stage, scale in enumerate(LINES[line].scales):
        bands = list(plan.bands(stage))
        assert sorted(row for start, stop in bands for row in range(start, stop)) == list(range(-(-size[0] // scale)))
        assert all(start % tile == 0 for start, _ in bands)
        assert len(bands) == len(list(plan.bands(0)))
        assert bands == sorted(bands, reverse=plan.upwards[stage])


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 21, 64, 97])
def test_rows_of_another_level_cover_the_pixels_of_a_band(height):
    plan = plan_of(height, 9, line="u", band=8)
    for here in plan.levels.values():
        for there in plan.levels.values():
            for start in range(0, here.height, 3):
                stop = min(start + 4, here.height)
                first, end = there.rows(here, start, stop)
                assert 0 <= first < end <= there.height
                assert end - first <= there.most_rows(here, stop - start)
                pixels = range(start * here.scale, min(stop * here.scale, height))
                assert {row // there.scale for row in pixels} <= set(range(first, end))


@pytest.mark.parametrize(
    ("memory", "line", "spill"),
    [
        ("64MiB", "student", True),
        ("1GiB", "student", True),
        ("2.5GiB", "student", False),  # four maps are 2.0 GiB
        ("64MiB", "half", True),
        ("1.2GiB", "half", False),
        ("1.6GiB", "u", False),  # three full maps live at once at most
        ("256MiB", "u", True),
    ],
)
def test_a_4k_plan_keeps_to_its_bound_and_spills_only_if_it_must(memory, line, spill):
    plan = plan_of(2160, 3840, parse_bytes(memory), line=line)
    assert plan.need <= parse_bytes(memory)
    assert plan.spill == spill


def test_the_least_bound_that_an_error_states_is_enough_and_is_the_least():
    with pytest.raises(MemoryBoundError, match="3840 x 2160 pixels needs a memory bound of at least") as caught:
        plan_of(2160, 3840, 1000)
    least = caught.value.least
    assert str(least) in str(caught.value)
    assert plan_of(2160, 3840, least).need == least
    with pytest.raises(MemoryBoundError):
        plan_of(2160, 3840, least - 1)


def test_without_a_bound_maps_stay_in_ram_while_they_fit_half_of_what_is_available():
    assert not plan_of(2160, 3840, available=5 * GIB).spill
    assert plan_of(2160, 3840, available=4 * GIB).spill


def test_a_lower_bound_never_needs_more():
    needs = [plan_of(1080, 1920, memory << 20).need for memory in (48, 64, 128, 256, 512, 1024, 2048)]
    assert needs == sorted(needs)
