"""Bytes that the stages of a line move through a GPU's memory, counted from the line itself, for a pixel of the picture.

A stage reads each of its maps once and writes each of its results once; nothing between its convolutions goes to memory.
Beside that it leaves partial sums of rows, one vector a block of columns, which a small kernel adds up. What blocks of
columns and runs of rows read beyond their own pixels is their halo: a neighbour reads it too, at about the same time, so
that most of it comes out of the L2 cache and is counted on its own.

    block of columns   |<- n ->|<-------- lanes - 2 n -------->|<- n ->|      n convolutions, one pixel each
    run of rows        the same downwards, computed `step` rows at a time
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .line import IMAGE, OUTPUT, PICTURES, Line, Stage

PICTURE_BYTES = 3 * 4  # float32 RGB


@dataclass(frozen=True)
class Tiling:
    """How kernels cut a picture."""

    lanes: int  # columns of a block, halo included
    step: int  # rows computed at a time


TRITON = Tiling(lanes=128, step=1)  # at 16 channels in 16 bits
CUDA = Tiling(lanes=64, step=4)


@dataclass(frozen=True)
class Traffic:
    """What one stage moves, in bytes a pixel of the picture, without its halo."""

    maps_read: int
    maps_written: int
    read: float  # maps, pictures, partial sums
    written: float

    @property
    def total(self) -> float:
        """Read and written."""
        return self.read + self.written


def stage_traffic(line: Line, stage: Stage, tiling: Tiling | None = None) -> Traffic:
    """Count what a stage moves.

    Args:
        line: whose maps say their channels, dtypes and scales.
        stage: of the line.
        tiling: of the kernels, for their partial sums; None leaves those out.
    """
    # In a group of one block x is also the group's skip: read twice, but one map.
    reads = [name for name in dict.fromkeys(stage.reads) if name not in PICTURES]
    writes = [name for name in stage.writes if name not in PICTURES]

    def size(names: Iterable[str]) -> float:
        maps = (line.maps[name] for name in names)
        return sum(map_.channels * map_.dtype.itemsize / map_.scale**2 for map_ in maps)

    sums = 0.0
    if tiling:
        own = tiling.lanes - 2 * stage.convolutions
        sums = sum(line.maps[name].channels * 4 / own / line.maps[name].scale ** 2 for name in stage.sums)
    return Traffic(
        maps_read=len(reads),
        maps_written=len(writes),
        read=size(reads) + (IMAGE in stage.reads) * PICTURE_BYTES + sums,
        written=size(writes) + (OUTPUT in stage.writes) * PICTURE_BYTES + sums,
    )


def halo_share(stage: Stage, tiling: Tiling, run: int) -> float:
    """Pixels that blocks and runs of `run` rows read beyond their own, as a share of their own."""
    beyond = 2 * stage.convolutions
    rows = -(-(run + beyond) // tiling.step) * tiling.step
    return tiling.lanes / (tiling.lanes - beyond) * rows / run - 1
