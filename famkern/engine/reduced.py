"""A run at reduced scale: the network sees the picture reduced, and what it makes of it is carried over.

    picture ──reduce──> reduced picture ──network──> its output          whole, in memory: 24 bytes a reduced pixel
       │                        └──────fit──────┴──> a, b                a band of rows at a time
       └──────────────────────────────apply──────────┘──> result         the same bands, k rows for each of theirs

Pixels without data have no weight in the fit: their map is reduced too, to 4 more bytes a reduced pixel.

From a picture and its result the same steps make the map of transmission: both are reduced, a and b fitted between them,
and 1 / a, enlarged as a is, is the share of light that came through the haze.

Operators: ops/reduced.py. Each band is computed with what it needs around it, so that it leaves every bit alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
# Of a map of transmission: its smallest number, 1 / MOST_GAIN, is the smallest above 0 that 16 bits hold.
MOST_GAIN = 65535


@dataclass(frozen=True)
class CarryPlan:
    """In which bands a picture is reduced, and its maps are fitted and applied."""

    height: int
    width: int
    scale: int
    dtype: torch.dtype  # of the arithmetic
    band: int  # reduced rows that are reduced, or fitted and applied, at a time
    need: int  # bytes that the run allocates beyond input and output, at most

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the reduced picture."""
        return -(-self.height // self.scale), -(-self.width // self.scale)

    @property
    def bands(self) -> Iterator[tuple[int, int]]:
        """Reduced rows (start, stop) from the first to the last."""
        for start in range(0, self.shape[0], self.band):
            yield start, min(start + self.band, self.shape[0])


@dataclass(frozen=True)
class ReducedPlan(CarryPlan):
    """How one picture is run at reduced scale: see `plan_reduced`."""

    network: Plan  # of the network, on the reduced picture

    @property
    def whole(self) -> bool:
        """Whether the network's run is one band, with its maps where it is computed."""
        return self.network.whole


def plan_carry(
    height: int,
    width: int,
    scale: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    bound: int,
    band: int | None = None,
) -> CarryPlan:
    """Choose the height of bands: see `plan_reduced` for the arguments and errors."""
    held = _held_bytes(height, width, scale, dtype)

    def need(band: int) -> int:
        return held + _band_bytes(band, width, scale, dtype, device)

    most = min(band or max(1, BAND_PIXELS // (width * scale)), -(-height // scale))
    most = bisect_right(range(1, most + 1), bound, key=need)
    if most == 0:
        raise _too_low(height, width, scale, need(1), bound)
    return CarryPlan(height, width, scale, dtype, most, need(most))


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
    held = _held_bytes(height, width, scale, dtype)
    try:
        network = plan_network(-(-height // scale), -(-width // scale), max(1, bound - held))
    except MemoryBoundError as error:
        least = held + max(error.least, _band_bytes(1, width, scale, dtype, device))
        raise _too_low(height, width, scale, least, bound) from None
    carry = plan_carry(height, width, scale, dtype=dtype, device=device, bound=bound, band=band)
    need = max(carry.need, held + network.need)
    return ReducedPlan(height, width, scale, dtype, carry.band, need, network)


def _held_bytes(height: int, width: int, scale: int, dtype: torch.dtype) -> int:
    """Of the reduced picture, its partner and the map of its data, which are there as long as the run is."""
    return -(-height // scale) * -(-width // scale) * (3 + 3 + 1) * dtype.itemsize


def _band_bytes(band: int, width: int, scale: int, dtype: torch.dtype, device: torch.device) -> int:
    """What a band of so many reduced rows takes beside that."""
    maps = 2 * (band + 2) * -(-width // scale)
    converted = 2 * (band + 2) * scale * width  # where operators cannot read and write the picture itself
    workspace = reduced.workspace_bytes(band + 2, width, scale, device, dtype)
    return UNCOUNTED + 3 * (maps * dtype.itemsize + converted * 8) + workspace


def _too_low(height: int, width: int, scale: int, least: int, bound: int) -> MemoryBoundError:
    return MemoryBoundError(f"a picture of {width} x {height} pixels at scale {scale}", least, bound)


def run_reduced(
    plan: ReducedPlan,
    source: Pixels,
    sink: Pixels,
    run_network: Callable[[Pixels, Pixels, Report], None],
    strength: float,
    device: torch.device,
    progress: Report | None = None,
    valid: Tensor | np.ndarray | None = None,
) -> None:
    """Dehaze one picture at reduced scale.

    Args:
        plan: made for a picture of this size.
        source, sink: the picture and its result, of the same dtype.
        run_network: runs the network from one reduced picture into another, by plan.network, and reports its progress.
        strength: see ops/apply_affine.py.
        device: where the run computes.
        progress: called with the finished fraction, which grows to 1.
        valid: (H, W) of bools: pixels that count in the fit. None: all.
    """
    scale, dtype, (rows, columns) = plan.scale, plan.dtype, plan.shape
    result = sink.tensor(device)
    network_share = 1 / (1 + CARRY_COST * scale**2)
    carry_share = (1 - network_share) / 2

    def report(fraction: float) -> None:
        if progress:
            progress(fraction)

    low = _reduce(plan, source, device, lambda fraction: report(carry_share * fraction))
    made = allocate((rows, columns, 3), dtype, device)
    run_network(Pixels(low), Pixels(made), lambda fraction: report(carry_share + network_share * fraction))
    weights = _reduce_map(plan, valid, device)
    for start, stop in plan.bands:
        a, b, map_row = _fit(plan, low, made, weights, start, stop)
        first, end = start * scale, min(stop * scale, plan.height)
        before = source.rows(first, end, dtype, device)
        after = torch.empty_like(before) if result is None else result[first:end]
        apply_affine(before, a, b, after, scale=scale, strength=strength, row=first, map_row=map_row)
        if result is None:
            sink.store(first, end, after)
        report(1.0 if stop == rows else 1 - carry_share * (1 - stop / rows))


def run_transmission(
    plan: CarryPlan,
    before: Pixels,
    after: Pixels,
    out: Tensor | np.ndarray,
    strength: float,
    device: torch.device,
    valid: Tensor | np.ndarray | None = None,
) -> None:
    """Estimate the share of light that came through the haze, from a picture and its result.

    The affine map y = a x + b from the one to the other is inverse to haze, x = t y + (1 - t) airlight, if t is 1 / a; it
    is 1 where the map makes contrast smaller. Below strength 1, or above, a is what it would be at 1.

    Args:
        plan: made for a picture of this size.
        before, after: the picture and its result.
        out: (H, W) of floats, to be filled with numbers in (0, 1].
        strength: of the result, above 0.
        device: where the run computes.
        valid: as for `run_reduced`.
    """
    x, y = (_reduce(plan, pixels, device, lambda _: None) for pixels in (before, after))
    weights = _reduce_map(plan, valid, device)
    white = torch.ones((), dtype=plan.dtype, device=device)
    for start, stop in plan.bands:
        a, b, map_row = _fit(plan, x, y, weights, start, stop)
        gain = (1 + (a.mean(dim=2, keepdim=True) - 1) / strength).clamp(1, MOST_GAIN)
        first, end = start * plan.scale, min(stop * plan.scale, plan.height)
        picture = white.expand(end - first, plan.width, 3)  # of which the map is the part that comes through
        shown = torch.empty(picture.shape, dtype=plan.dtype, device=device)
        transmission, nothing = a.copy_(1 / gain), b.zero_()
        apply_affine(picture, transmission, nothing, shown, scale=plan.scale, strength=1.0, row=first, map_row=map_row)
        band = shown[..., 0]
        out[first:end] = band.to(out.device, out.dtype) if isinstance(out, Tensor) else band.cpu().numpy()  # type: ignore[assignment]


def _reduce(plan: CarryPlan, picture: Pixels, device: torch.device, report: Report) -> Tensor:
    """The picture reduced, (h, w, 3)."""
    low = allocate((*plan.shape, 3), plan.dtype, device)
    for start, stop in plan.bands:
        first, end = _rows_to_reduce(plan, start, stop)
        band = picture.rows(first, end, plan.dtype, device)
        reduce_picture(band, low[start:stop], scale=plan.scale, image_row=first, row=start)
        report(stop / len(low))
    return low


def _reduce_map(plan: CarryPlan, valid: Tensor | np.ndarray | None, device: torch.device) -> Tensor | None:
    """The share of valid pixels in each reduced one, (h, w), up to a factor; None where all are."""
    if valid is None or bool(valid.all()):
        return None
    weights = allocate(plan.shape, plan.dtype, device)
    for start, stop in plan.bands:
        first, end = _rows_to_reduce(plan, start, stop)
        rows = valid[first:end]
        if isinstance(rows, np.ndarray):
            rows = torch.from_numpy(rows.astype(np.uint8))
        band = rows.to(device, torch.uint8)
        shares = torch.empty((stop - start, plan.shape[1], 3), dtype=plan.dtype, device=device)
        reduce_picture(band[..., None].expand(-1, -1, 3), shares, scale=plan.scale, image_row=first, row=start)
        weights[start:stop] = shares[..., 0]
    return weights


def _rows_to_reduce(plan: CarryPlan, start: int, stop: int) -> tuple[int, int]:
    """Rows of the picture that reduced rows start..stop are made of."""
    return max(start * plan.scale - plan.scale // 2, 0), min((stop + 1) * plan.scale, plan.height)


def _fit(
    plan: CarryPlan, x: Tensor, y: Tensor, weights: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor, int]:
    """a and b, (n, w, 3), as reduced rows start..stop need them, and the reduced row with which they begin."""
    rows, columns = plan.shape
    map_row, map_end = max(start - 1, 0), min(stop + 1, rows)
    around = slice(max(map_row - reduced.HALO, 0), map_end + reduced.HALO)
    a, b = (torch.empty((map_end - map_row, columns, 3), dtype=plan.dtype, device=x.device) for _ in range(2))
    near = None if weights is None else weights[around]
    fit_affine(x[around], y[around], near, a, b, top=map_row - around.start)
    return a, b, map_row
