"""A run at reduced scale: the network sees the picture reduced, and what it makes of it is carried over.

    picture ──reduce──> reduced picture ──network──> its output          whole, in memory: 24 bytes a reduced pixel
       │                        └──────fit──────┴──> a, b                a band of rows at a time
       └──────────────────────────────apply──────────┘──> result         the same bands, k rows for each of theirs

Operators: ops/reduced.py. Each band is computed with what it needs around it, so that it leaves every bit alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..ops import reduced
from ..ops.apply_affine import apply_affine
from ..ops.fit_affine import fit_affine
from ..ops.reduce_picture import reduce_picture
from .pixels import Pixels
from .plan import UNCOUNTED, MemoryBoundError, Plan
from .storage import allocate

Report = Callable[[float], None]

# Preferred size of a band, in pixels of the picture: a fit computes 32 reduced rows beside its own.
BAND_PIXELS = 1 << 21
# What reducing, fitting and applying cost, as a part of what the network costs for as many pixels: for progress.
CARRY_COST = 1 / 50


@dataclass(frozen=True)
class ReducedPlan:
    """How one picture is run at reduced scale: see `plan_reduced`."""

    height: int
    width: int
    scale: int
    network: Plan  # of the network, on the reduced picture
    dtype: torch.dtype  # of the arithmetic
    band: int  # reduced rows that are reduced, or fitted and applied, at a time
    need: int  # bytes that the run allocates beyond input and output, at most

    @property
    def whole(self) -> bool:
        """Whether the network's run is one band, with its maps where it is computed."""
        return self.network.whole

    @property
    def bands(self) -> Iterator[tuple[int, int]]:
        """Reduced rows (start, stop) from the first to the last."""
        rows = -(-self.height // self.scale)
        for start in range(0, rows, self.band):
            yield start, min(start + self.band, rows)


def plan_reduced(
    plan_network: Callable[[int, int, int], Plan],
    height: int,
    width: int,
    scale: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    bound: int,
    band: int | None = None,
) -> ReducedPlan:
    """Choose the height of bands, and plan the network's run.

    Args:
        plan_network: makes the plan of the network's run from (height, width, bound) of the reduced picture.
        height, width: of the picture, in pixels.
        scale: by which it is reduced.
        dtype: of the arithmetic, float32 or float64.
        device: where the run computes.
        bound: in bytes, on what the run allocates beyond input and output.
        band: reduced rows of a band to use instead of the preferred ones, for tests.

    Raises:
        MemoryBoundError: if not even the lowest band fits the bound.
    """
    rows, columns = -(-height // scale), -(-width // scale)
    held = 2 * rows * columns * 3 * dtype.itemsize  # the reduced picture and the network's output

    def carry(band: int) -> int:
        maps = 2 * (band + 2) * columns
        converted = 2 * (band + 2) * scale * width  # where operators cannot read and write the picture itself
        workspace = reduced.workspace_bytes(band + 2, width, scale, device, dtype)
        return UNCOUNTED + 3 * (maps * dtype.itemsize + converted * 8) + workspace

    def too_low(least: int) -> MemoryBoundError:
        return MemoryBoundError(f"a picture of {width} x {height} pixels at scale {scale}", held + least, bound)

    try:
        network = plan_network(rows, columns, max(1, bound - held))
    except MemoryBoundError as error:
        raise too_low(max(error.least, carry(1))) from None
    most = min(band or max(1, BAND_PIXELS // (width * scale)), rows)
    most = bisect_right(range(1, most + 1), bound - held, key=carry)
    if most == 0:
        raise too_low(carry(1))
    return ReducedPlan(height, width, scale, network, dtype, most, held + max(network.need, carry(most)))


def run_reduced(
    plan: ReducedPlan,
    source: Pixels,
    sink: Pixels,
    run_network: Callable[[Pixels, Pixels, Report], None],
    strength: float,
    device: torch.device,
    progress: Report | None = None,
) -> None:
    """Dehaze one picture at reduced scale.

    Args:
        plan: made for a picture of this size.
        source, sink: the picture and its result, of the same dtype.
        run_network: runs the network from one reduced picture into another, by plan.network, and reports its progress.
        strength: see ops/apply_affine.py.
        device: where the run computes.
        progress: called with the finished fraction, which grows to 1.
    """
    scale, dtype = plan.scale, plan.dtype
    shape = (-(-plan.height // scale), -(-plan.width // scale), 3)
    low, made = (allocate(shape, dtype, device) for _ in range(2))
    result = sink.tensor(device)
    network_share = 1 / (1 + CARRY_COST * scale**2)
    carry_share = (1 - network_share) / 2

    def report(fraction: float) -> None:
        if progress:
            progress(fraction)

    for start, stop in plan.bands:
        first, end = max(start * scale - scale // 2, 0), min((stop + 1) * scale, plan.height)
        reduce_picture(source.rows(first, end, dtype, device), low[start:stop], scale=scale, image_row=first, row=start)
        report(carry_share * stop / shape[0])

    run_network(Pixels(low), Pixels(made), lambda fraction: report(carry_share + network_share * fraction))

    for start, stop in plan.bands:
        map_row, map_end = max(start - 1, 0), min(stop + 1, shape[0])
        around = slice(max(map_row - reduced.HALO, 0), map_end + reduced.HALO)
        a, b = (torch.empty((map_end - map_row, *shape[1:]), dtype=dtype, device=device) for _ in range(2))
        fit_affine(low[around], made[around], None, a, b, top=map_row - around.start)
        first, end = start * scale, min(stop * scale, plan.height)
        before = source.rows(first, end, dtype, device)
        after = torch.empty_like(before) if result is None else result[first:end]
        apply_affine(before, a, b, after, scale=scale, strength=strength, row=first, map_row=map_row)
        if result is None:
            sink.store(first, end, after)
        report(1.0 if stop == shape[0] else 1 - carry_share * (1 - stop / shape[0]))
