"""The one loop: every stage of the line, every band of the stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..ops import stage as ops
from .checks import Checks
from .line import IMAGE, OUTPUT, Stage
from .means import Sums
from .pixels import Pixels
from .plan import Plan
from .storage import open_storage

Rows = tuple[int, int]  # start, stop


def run(
    line: Sequence[Stage],
    plan: Plan,
    image: Pixels,
    finish: Callable[[int, int, Tensor], None],
    device: torch.device,
    progress: Callable[[float], None] | None = None,
    checks: Checks | None = None,
    operator: Callable[..., None] = ops.stage,
) -> None:
    """Run the line over one picture.

    Args:
        line: the network.
        plan: made for this line and a picture of this size.
        image: the picture.
        finish: called with (start, stop, band) for each band of the result, (1, rows, W, 3) in [0, 1].
        device: where the line's weights are.
        progress: called with the finished fraction, 0 < fraction <= 1, after each band.
        checks: get what must hold, for the caller to look at; None: looked at before this returns.
        operator: runs a stage on a band, as `famkern.ops.stage.stage`, for those who measure.

    Raises:
        ValueError: if the maps' values exceed the range of their dtype.
    """
    mine = checks or Checks(device)
    compute = line[0].weights[0].dtype
    origins: dict[str, int] = {}
    means: dict[str, Tensor] = {}
    done, total = 0, len(line) * -(-plan.height // plan.band)
    with open_storage(plan, device) as storage:

        def read(name: str, start: int, stop: int) -> Tensor:
            if name == IMAGE:
                return image.read(start, stop, compute, device)
            return storage.read(name, origins[name], start, stop)

        def target(name: str, start: int, stop: int) -> Tensor:
            if name == OUTPUT:
                return torch.empty((1, stop - start, plan.width, 3), dtype=compute, device=device)
            return storage.target(name, origins[name], start, stop)

        def store(name: str, start: int, stop: int, band: Tensor) -> None:
            if name == OUTPUT:
                finish(start, stop, band)
            else:
                storage.store(name, origins[name], start, stop, band)

        def prefetch(stage: Stage, start: int, stop: int) -> None:
            halo = stage.halo(plan.tile)
            for name in dict.fromkeys(stage.reads):
                if name != IMAGE:
                    storage.prefetch(name, origins[name], max(start - halo, 0), min(stop + halo, plan.height))

        def run_band(stage: Stage, gate: Tensor | None, sums: list[Sums], band: Rows, following: Rows | None) -> None:
            (start, stop), halo = band, stage.halo(plan.tile)
            top, bottom = min(halo, start), min(halo, plan.height - stop)
            maps = {name: read(name, start - top, stop + bottom) for name in dict.fromkeys(stage.reads)}
            inputs = [maps[name] for name in stage.reads]
            if following:
                prefetch(stage, *following)
            outputs = [target(name, start, stop) for name in stage.writes]
            shape = (1, stop - start, -(-plan.width // plan.cell), plan.channels)
            rows = [torch.empty(shape, dtype=torch.float64, device=device) for _ in sums]
            place = (top, bottom, plan.cell, start - top)
            operator(stage.kind, inputs, gate, stage.weights, outputs, rows, place)
            storage.release()
            for name, output in zip(stage.writes, outputs, strict=True):
                if name == last and plan.dtype == torch.float16:
                    low, high = output.aminmax()
                    mine.require(low.isfinite() & high.isfinite(), lambda: _overflow(plan.dtype))
                store(name, start, stop, output)
            for whole, part in zip(sums, rows, strict=True):
                whole.add(start, part)

        # An infinity stays one through every skip and reaches the means of the maps after it; but means are of the values
        # before they are rounded to 16 bits, and after the last map there are none.
        *_, last = (name for stage in line for name in stage.sums)
        for index, stage in enumerate(line):
            if OUTPUT in stage.writes:
                finite = torch.cat([mean.flatten() for mean in means.values()]).isfinite().all()
                mine.require(finite, lambda: _overflow(plan.dtype))
            gate = stage.gate(means) if stage.gate else None
            origins |= dict.fromkeys(stage.writes, plan.slide * (index % 2))
            sums = [Sums(plan.height, plan.width, plan.cell, plan.channels, device) for _ in stage.sums]
            bands = list(plan.bands(index))
            for band, following in zip(bands, [*bands[1:], None], strict=True):
                run_band(stage, gate, sums, band, following)
                done += 1
                if progress:
                    progress(done / total)
            means |= {name: s.means() for name, s in zip(stage.sums, sums, strict=True)}
    if checks is None:
        mine.look()


def _overflow(dtype: torch.dtype) -> ValueError:
    name = str(dtype).removeprefix("torch.")
    return ValueError(f"the network's maps overflow {name} on this picture; use dtype bfloat16 or float32")
