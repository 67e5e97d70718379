"""The plan keeps to the memory bound, covers the picture, and says what the least bound is."""

import pytest
import torch

from famkern.engine import MemoryBoundError, make_plan, parse_bytes

from .test_line import line_of

LINE = line_of(3, 6)
GIB = 1 << 30


def plan_of(height, width, memory=None, *, tile=1, available=64 * GIB, dtype=torch.float32, band=None):
    return make_plan(
        LINE, height, width, 16, dtype=dtype, tile=tile, memory=memory, available=available, band=band
    )  # fmt: skip


@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 257), (257, 3), (7, 100_000), (2160, 3840), (30_000, 200)])
@pytest.mark.parametrize("band", [None, 1, 5, 64, 10**6])
def test_bands_cover_every_row_once_and_are_whole_tiles(size, tile, band):
    plan = plan_of(*size, tile=tile, band=band)
    for stage in (0, 1):
        bands = list(plan.bands(stage))
        assert sorted(row for start, stop in bands for row in range(start, stop)) == list(range(size[0]))
        assert all(start % tile == 0 for start, _ in bands)
    assert list(plan.bands(0)) == list(plan.bands(1))[::-1]


@pytest.mark.parametrize(
    ("memory", "dtype", "spill"),
    [
        ("64MiB", torch.float32, True),
        ("1GiB", torch.float32, True),
        ("2.5GiB", torch.float32, False),  # four maps are 2.0 GiB
        ("64MiB", torch.float16, True),
        ("1.2GiB", torch.float16, False),
    ],
)
def test_a_4k_plan_keeps_to_its_bound_and_spills_only_if_it_must(memory, dtype, spill):
    plan = plan_of(2160, 3840, parse_bytes(memory), dtype=dtype)
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
