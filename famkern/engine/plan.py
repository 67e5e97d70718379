"""From a picture, a line and a memory bound to a band height and a place for the maps.

A band is so many rows of the picture, whole tiles of kernels at the coarsest scale too; at scale s an s-th of them. What a
stage reads at another scale than it writes begins and ends where its band does:

    rows 8 ... 15 of the outputs, halo included:    rows 16 ... 31 of a map of twice as many pixels a side
                                                    rows 4 ... 7 of one of half as many
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from ..ops.formulas import workspace_bytes
from .arena import place
from .line import Line, Map, maps_of
from .means import WINDOW_CELLS, means_bytes, open_bytes
from .memory import format_bytes

Workspace = Callable[[int, int, int, int, torch.dtype], int]  # (rows, width, channels, cell, arithmetic) -> bytes

BAND_PIXELS = 1 << 16  # preferred size of a band: a few megabytes a map stay in the cache from one operator to the next
# The allocator's slack, libraries' own buffers and their code, which the first run brings into memory.
UNCOUNTED = 16 << 20
# Where bands come and go beside the compute: the first to come and the last to go have nothing beside them.
LEAST_BANDS = 8
CACHE_LINE = 64  # bytes; maps begin there


class MemoryBoundError(ValueError):
    """A memory bound below the least possible one, which the message states and `least` holds (bytes)."""

    def __init__(self, what: str, least: int, bound: int) -> None:
        super().__init__(
            f"{what} needs a memory bound of at least {least} bytes ({format_bytes(least)}); "
            f"it is {bound} ({format_bytes(bound)})"
        )
        self.what, self.least, self.bound = what, least, bound


@dataclass(frozen=True)
class Level:
    """The picture at one scale."""

    scale: int
    height: int  # ceil(H / scale) rows
    width: int
    band: int  # rows of a band; the last one may be shorter
    cell: int  # rows and columns of a cell of the grid of means, see means.py; the longer side for means of all
    slide: int  # rows by which a map moves when it takes over from another, see arena.py

    def rows(self, other: Level, start: int, stop: int) -> tuple[int, int]:
        """The rows of this level that belong to rows start..stop of another one."""
        if self.scale <= other.scale:
            ratio = other.scale // self.scale
            return ratio * start, min(ratio * stop, self.height)
        ratio = self.scale // other.scale
        return start // ratio, -(-stop // ratio)

    def most_rows(self, other: Level, rows: int) -> int:
        """The rows of this level that belong to so many of another one, at most."""
        if self.scale <= other.scale:
            return min(other.scale // self.scale * rows, self.height)
        return min(rows // (self.scale // other.scale) + 2, self.height)


@dataclass(frozen=True, eq=False)
class Plan:
    """How one picture is run: see `make_plan`."""

    line: Line
    height: int
    width: int
    tile: int  # rows that the kernels compute at a time
    band: int  # rows of a band of the picture, a multiple of `tile` at the coarsest scale; the last one may be shorter
    levels: Mapping[int, Level]  # by their scales
    upwards: tuple[bool, ...]  # whether a stage sweeps from the last band to the first
    places: Mapping[str, int]  # map -> first byte in the arena
    map_bytes: int  # of the arena
    spill: bool  # the arena lies in a file, or in the host's memory for a GPU
    slots: int  # bands of a map on the device at once, where the arena lies elsewhere
    need: int  # bytes that the run allocates beyond input and output, at most

    @property
    def whole(self) -> bool:
        """Whether the picture is one band, with its maps where it is computed."""
        return self.band >= self.height and not self.spill

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the arena as pinned memory, of which PyTorch takes a power of two."""
        return 1 << (self.map_bytes - 1).bit_length()

    @functools.cached_property
    def passing(self) -> int:
        """Maps that a stage reads and writes, at most."""
        return max(len(maps_of(stage)) for stage in self.line.stages)

    @functools.cached_property
    def band_bytes(self) -> int:
        """Bytes of a map's rows that belong to a band, its halo included, at most."""
        stages = self.line.stages
        return max(self.most_bytes(index, name) for index in self.line.unlike for name in maps_of(stages[index]))

    def level(self, stage: int) -> Level:
        """Of a stage's outputs."""
        return self.levels[self.line.scales[stage]]

    def level_of(self, name: str) -> Level:
        """Of a map or a picture."""
        return self.levels[self.line.maps[name].scale]

    def shape(self, name: str, rows: int) -> tuple[int, int, int, int]:
        """Of so many rows of a map or a picture: (1, rows, W, C)."""
        return 1, rows, self.level_of(name).width, self.line.maps[name].channels

    def row_bytes(self, name: str) -> int:
        """Bytes in a row of a map."""
        map_ = self.line.maps[name]
        return self.level_of(name).width * map_.channels * map_.dtype.itemsize

    def byte(self, name: str, row: int) -> int:
        """Where in the arena a row of a map begins."""
        return self.places[name] + row * self.row_bytes(name)

    def halo_rows(self, stage: int) -> int:
        """Rows of a band of a stage with its halo, at most."""
        level = self.level(stage)
        return min(level.band + 2 * self.line.stages[stage].halo(self.tile), level.height)

    def most_bytes(self, stage: int, name: str) -> int:
        """Bytes of a map that a stage reads or writes for one band, at most."""
        return self.level_of(name).most_rows(self.level(stage), self.halo_rows(stage)) * self.row_bytes(name)

    def bands(self, stage: int) -> Iterator[tuple[int, int]]:
        """The bands (start, stop) of a stage's outputs, in the order in which it sweeps over them."""
        level = self.level(stage)
        starts = range(0, level.height, level.band)
        for start in reversed(starts) if self.upwards[stage] else starts:
            yield start, min(start + level.band, level.height)


def make_plan(
    line: Line,
    height: int,
    width: int,
    *,
    tile: int,
    memory: int | None,
    available: int,
    window: int | None = None,
    band: int | None = None,
    band_pixels: int = BAND_PIXELS,
    slots: int = 1,
    workspace: Workspace = workspace_bytes,
) -> Plan:
    """Choose band height and storage.

    Args:
        line: the network.
        height, width: the picture, in pixels.
        tile: rows that the kernels compute at a time.
        memory: bound in bytes on what the run allocates beyond input and output; None for half of `available`.
        available: bytes that could be allocated.
        window: rows and columns of the picture over which means are taken, see `cell_of`; None: the whole picture.
        band: a band height to use instead of the preferred one, for tests and experiments; rounded up to whole tiles.
        band_pixels: preferred size of a band.
        slots: bands of a map on the device at once, where maps live elsewhere; 2 to copy one while another is computed.
        workspace: bytes that a stage allocates at most for a band of so many rows, halo included, at its own scale.

    Raises:
        MemoryBoundError: if not even the lowest band fits the bound.
    """
    coarsest = line.all_scales[-1]
    step = tile * coarsest  # rows of the picture

    def candidate(steps: int, spill: bool) -> Plan:
        rows = steps * step
        slide = min(rows + coarsest * line.halo(tile), _round_up(height, coarsest))
        levels = {scale: _level(scale, height, width, rows, slide, window) for scale in line.all_scales}
        places, map_bytes = place(line.arrangement.chains, lambda map_: _piece(height, width, slide, coarsest, map_))
        plan = Plan(
            line, height, width, tile, rows, levels, line.arrangement.upwards, places, map_bytes, spill, slots, need=0
        )
        return replace(plan, need=_need(plan, workspace))

    bound = memory if memory is not None else available // 2
    preferred = min(band or max(1, band_pixels // width), height)
    for spill in (False, True):
        if spill and slots > 1 and band is None:
            preferred = min(preferred, -(-height // LEAST_BANDS))
        most = -(-preferred // step)
        if (plan := candidate(most, spill)).need <= bound:
            return plan
        # How many steps fit: the need grows with them, so that few of the heights must be tried.
        steps = bisect_right(range(1, most), bound, key=lambda n: candidate(n, spill).need)
        if steps:
            return candidate(steps, spill)
    least = min(candidate(1, spill).need for spill in (False, True))
    raise MemoryBoundError(f"a picture of {width} x {height} pixels", least, bound)


def cell_of(window: int | None, height: int, width: int) -> int:
    """Rows and columns of a cell: a part of the window, or the longer side if the window holds the picture or is None."""
    longer = max(height, width)
    return longer if window is None or window >= longer else window // WINDOW_CELLS


def _level(scale: int, height: int, width: int, band: int, slide: int, window: int | None) -> Level:
    height, width = -(-height // scale), -(-width // scale)
    cell = cell_of(None if window is None else window // scale, height, width)
    return Level(scale, height, width, band // scale, cell, slide // scale)


def _piece(height: int, width: int, slide: int, coarsest: int, map_: Map) -> tuple[int, int]:
    """Bytes of a map's piece of the arena, and bytes by which the map slides in it; in whole cache lines.

    Counted with the sides that are whole pixels at the coarsest scale, so that pieces at other scales make up each other.
    """
    pixel = map_.channels * map_.dtype.itemsize
    rows, columns = (_round_up(height, coarsest) + slide) // map_.scale, _round_up(width, coarsest) // map_.scale
    return _round_up(rows * columns * pixel, CACHE_LINE), slide // map_.scale * -(-width // map_.scale) * pixel


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _need(plan: Plan, workspace: Workspace) -> int:
    """Bytes that a run by this plan allocates at most, beyond input and output."""
    sums = max(_sums_bytes(plan, left, known) for left, known in plan.line.sums)
    work = max(_band_bytes(plan, index, workspace) for index in plan.line.unlike)
    return UNCOUNTED + sums + work + (0 if plan.spill else plan.map_bytes)


def _sums_bytes(plan: Plan, left: Iterable[Map], known: Iterable[Map]) -> int:
    """Bytes of the sums of maps that a stage leaves, and of the means of others that are known meanwhile."""
    total = 0
    for map_ in left:
        level = plan.levels[map_.scale]
        total += open_bytes(level.height, level.width, level.cell, map_.channels, min(level.band, level.height))
    for map_ in known:
        level = plan.levels[map_.scale]
        total += means_bytes(level.height, level.width, level.cell, map_.channels)
    return total


def _band_bytes(plan: Plan, index: int, workspace: Workspace) -> int:
    """Bytes that one band of this stage needs: the operator's workspace, pixels, and what passes to and from a file."""
    level, line, stage = plan.level(index), plan.line, plan.line.stages[index]
    channels = max(line.maps[name].channels for name in maps_of(stage) if plan.level_of(name) is level)
    work = workspace(plan.halo_rows(index), level.width, channels, level.cell, line.arithmetic)
    if plan.spill and plan.slots > 1:  # buffers that all stages share
        work += plan.slots * plan.passing * plan.band_bytes
    elif plan.spill:
        work += sum(plan.most_bytes(index, name) for name in maps_of(stage))
    return work
