"""From a picture, a precision and a memory bound to a band height and a place for the maps.

Maps share buffers. A stage rewrites most of what it reads, so a written map takes over the buffer of a map that dies at
that stage, displaced by `slide` rows so that no row is overwritten while the halo of another band still needs it:

    stage k   (odd)   reads  |####map####|.....|    sweeps upwards,   writes  |.....|####map####|
    stage k+1 (even)  reads  |.....|####map####|    sweeps downwards, writes  |####map####|.....|

With bands of b rows and a halo of h, slide = b + h rows are enough; with one band it is the whole height, which is plain
double buffering. The student of three groups lives in four buffers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..ops.formulas import workspace_bytes
from .line import IMAGE, OUTPUT, Stage
from .means import WINDOW_CELLS, open_bytes
from .memory import format_bytes

Workspace = Callable[[int, int, int, int, torch.dtype], int]  # (rows, width, channels, cell, arithmetic) -> bytes

BAND_PIXELS = 1 << 16  # preferred size of a band: a few megabytes a map stay in the cache from one operator to the next
# The allocator's slack, libraries' own buffers and their code, which the first run brings into memory.
RESERVE = 16 << 20
# Where bands come and go beside the compute: the first to come and the last to go have nothing beside them.
LEAST_BANDS = 8


class MemoryBoundError(ValueError):
    """A memory bound below the least possible one, which the message states and `least` holds (bytes)."""

    def __init__(self, what: str, least: int, bound: int) -> None:
        super().__init__(
            f"{what} needs a memory bound of at least {least} bytes ({format_bytes(least)}); "
            f"it is {bound} ({format_bytes(bound)})"
        )
        self.what, self.least, self.bound = what, least, bound


@dataclass(frozen=True)
class Plan:
    """How one picture is run: see `make_plan`."""

    height: int
    width: int
    channels: int
    dtype: torch.dtype  # of the maps
    tile: int  # rows that the kernels compute at a time
    band: int  # rows of a band, a multiple of `tile`; the last band may be shorter
    cell: int  # rows and columns of a cell of the grid of means, see means.py; the longer side for means of all
    slide: int  # rows by which a map moves when it takes over a buffer
    buffers: dict[str, int]  # map -> buffer
    spill: bool  # buffers live in a file, or in the host's memory for a GPU
    slots: int  # bands of a map on the device at once, where buffers live elsewhere
    passing: int  # maps that a stage reads and writes, at most
    need: int  # bytes that the run allocates beyond input and output, at most

    @property
    def whole(self) -> bool:
        """Whether the picture is one band, with its maps where it is computed."""
        return self.band >= self.height and not self.spill

    @property
    def row_bytes(self) -> int:
        """Bytes in one row of a map."""
        return self.width * self.channels * self.dtype.itemsize

    @property
    def buffer_rows(self) -> int:
        """Rows of each buffer."""
        return self.height + self.slide

    @property
    def read_rows(self) -> int:
        """Rows of a band with its halo, at most."""
        return self.height if self.slide == self.height else min(2 * self.slide - self.band, self.height)

    @property
    def map_bytes(self) -> int:
        """Bytes of all buffers together."""
        return (max(self.buffers.values()) + 1) * self.buffer_rows * self.row_bytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes of all buffers as pinned memory, of which PyTorch takes a power of two for each."""
        each = self.buffer_rows * self.row_bytes
        return (max(self.buffers.values()) + 1) * (1 << (each - 1).bit_length())

    def bands(self, stage: int) -> Iterator[tuple[int, int]]:
        """The bands (start, stop) in the order in which the stage of this index sweeps over them."""
        starts = range(0, self.height, self.band)
        for start in starts if stage % 2 == 0 else reversed(starts):
            yield start, min(start + self.band, self.height)


def make_plan(
    line: Sequence[Stage],
    height: int,
    width: int,
    channels: int,
    *,
    dtype: torch.dtype,
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
        channels: of the maps.
        dtype: of the maps.
        tile: rows that the kernels compute at a time.
        memory: bound in bytes on what the run allocates beyond input and output; None for half of `available`.
        available: bytes that could be allocated.
        window: rows and columns over which means are taken, see `cell_of`; None: the whole picture.
        band: a band height to use instead of the preferred one, for tests and experiments; rounded up to tiles.
        band_pixels: preferred size of a band.
        slots: bands of a map on the device at once, where maps live elsewhere; 2 to copy one while another is computed.
        workspace: bytes that a stage allocates at most for a band of so many rows, halo included.

    Raises:
        MemoryBoundError: if not even the lowest band fits the bound.
    """
    buffers = share_buffers(line)
    halo = max(stage.halo(tile) for stage in line)
    cell = cell_of(window, height, width)
    passing = max(len(_maps_of(stage)) for stage in line)

    def candidate(tiles: int, spill: bool) -> Plan:
        rows = tiles * tile
        slide = min(rows + halo, height)
        plan = Plan(height, width, channels, dtype, tile, rows, cell, slide, buffers, spill, slots, passing, need=0)
        return replace(plan, need=_need(plan, line, workspace))

    bound = memory if memory is not None else available // 2
    preferred = min(band or max(1, band_pixels // width), height)
    for spill in (False, True):
        if spill and slots > 1 and band is None:
            preferred = min(preferred, -(-height // LEAST_BANDS))
        most = -(-preferred // tile)
        if (plan := candidate(most, spill)).need <= bound:
            return plan
        # How many tiles fit: the need grows with them, so that few of the heights must be tried.
        tiles = bisect_right(range(1, most), bound, key=lambda n: candidate(n, spill).need)
        if tiles:
            return candidate(tiles, spill)
    least = min(candidate(1, spill).need for spill in (False, True))
    raise MemoryBoundError(f"a picture of {width} x {height} pixels", least, bound)


def cell_of(window: int | None, height: int, width: int) -> int:
    """Rows and columns of a cell: a part of the window, or the longer side if the window holds the picture or is None."""
    longer = max(height, width)
    return longer if window is None or window >= longer else window // WINDOW_CELLS


def share_buffers(line: Sequence[Stage]) -> dict[str, int]:
    """Give each map a buffer, as few as the lives of the maps allow."""
    last_reader = {name: index for index, stage in enumerate(line) for name in stage.reads}
    written_by = {name: index for index, stage in enumerate(line) for name in stage.writes}
    buffers: dict[str, int] = {}
    free: list[int] = []
    for index, stage in enumerate(line):
        # In a group of one block x is also the group's skip: read twice, but one map.
        dying = [name for name in dict.fromkeys(stage.reads) if name != IMAGE and last_reader[name] == index]
        # Only a map of the stage before lies on the side of its buffer that this stage does not write to.
        taken = [buffers[name] for name in dying if written_by[name] == index - 1]
        freed = [buffers[name] for name in dying if written_by[name] != index - 1]
        for name in stage.writes:
            if name != OUTPUT:
                unused = len(set(buffers.values()))
                buffers[name] = taken.pop(0) if taken else free.pop(0) if free else unused
        free += freed + taken
    return buffers


def _need(plan: Plan, line: Sequence[Stage], workspace: Workspace) -> int:
    """Bytes that a run by this plan allocates at most, beyond input and output."""
    sums = open_bytes(plan.height, plan.width, plan.cell, plan.channels, min(plan.band, plan.height))
    sums *= max(len(stage.sums) for stage in line)
    work = max(_band_bytes(plan, stage, workspace) for stage in line)
    return RESERVE + sums + work + (0 if plan.spill else plan.map_bytes)


def _band_bytes(plan: Plan, stage: Stage, workspace: Workspace) -> int:
    """Bytes that one band of this stage needs: the operator's workspace, pixels, and what passes to and from a file."""
    rows = min(plan.band + 2 * stage.halo(plan.tile), plan.height)
    work = workspace(rows, plan.width, plan.channels, plan.cell, stage.weights[0].dtype)
    if plan.spill and plan.slots > 1:  # buffers that all stages share
        work += plan.slots * plan.passing * plan.read_rows * plan.row_bytes
    elif plan.spill:
        work += len(_maps_of(stage)) * rows * plan.row_bytes
    return work


def _maps_of(stage: Stage) -> list[str]:
    return [name for name in (*stage.reads, *stage.writes) if name not in (IMAGE, OUTPUT)]
