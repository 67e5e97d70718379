"""The one loop: every stage of the line, every band of the stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..ops import stage as ops
from .checks import Checks
from .line import IMAGE, OUTPUT, Stage
from .means import Averages, Sums
from .plan import Level, Plan
from .storage import open_storage

Rows = tuple[int, int]  # start, stop


class Source(Protocol):
    """Where a picture comes from; each row may be asked for more than once."""

    def read(self, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Rows start..stop as a contiguous (1, rows, W, 3) tensor with values in [0, 1]."""


class Sink(Protocol):
    """Where the result goes, from its first row to its last."""

    def write(self, start: int, stop: int, band: Tensor) -> None:
        """Take rows start..stop, (1, rows, W, 3) with values in [0, 1]."""


def run(
    plan: Plan,
    source: Source,
    sink: Sink,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
    checks: Checks | None = None,
    operator: Callable[..., None] | None = None,
    averages: Averages | None = None,
) -> None:
    """Run a line over one picture.

    Args:
        plan: of the line and a picture of this size.
        source: the picture.
        sink: takes the result.
        device: where the line's weights are.
        progress: called with the finished fraction of the work, 0 < fraction <= 1, after each band.
        checks: get what must hold, for the caller to look at; None: looked at before this returns.
        operator: runs a stage on a band instead of `famkern.ops.stage.stage`, for those who measure.
        averages: stand in for the means, and take up this picture's.

    Raises:
        ValueError: if the maps' values exceed the range of their dtype.
    """
    mine, line = checks or Checks(device), plan.line
    means: dict[str, Tensor] = {}
    work = [
        sum(weight.numel() for weight in stage.weights) * plan.level(i).width for i, stage in enumerate(line.stages)
    ]
    done, total = 0, sum(each * plan.level(index).height for index, each in enumerate(work))
    last_gate = max(line.last_use.values(), default=None)
    with open_storage(plan, device) as storage:

        def rows_of(name: str, level: Level, start: int, stop: int) -> Rows:
            return plan.level_of(name).rows(level, start, stop)

        def read(name: str, start: int, stop: int) -> Tensor:
            return (
                source.read(start, stop, line.arithmetic, device) if name == IMAGE else storage.read(name, start, stop)
            )

        def target(name: str, start: int, stop: int) -> Tensor:
            if name == OUTPUT:
                return torch.empty(plan.shape(name, stop - start), dtype=line.arithmetic, device=device)
            return storage.target(name, start, stop)

        def with_halo(stage: Stage, level: Level, band: Rows) -> Rows:
            halo = stage.halo(plan.tile)
            return max(band[0] - halo, 0), min(band[1] + halo, level.height)

        def run_band(
            stage: Stage, level: Level, gate: Tensor | None, sums: list[Sums], band: Rows, following: Rows | None
        ) -> None:
            (start, stop), (first, end) = band, with_halo(stage, level, band)
            maps = {name: read(name, *rows_of(name, level, first, end)) for name in dict.fromkeys(stage.reads)}
            inputs = [maps[name] for name in stage.reads]
            if following:
                for name in dict.fromkeys(stage.reads):
                    if name != IMAGE:
                        storage.prefetch(name, *rows_of(name, level, *with_halo(stage, level, following)))
            outputs = [target(name, start, stop) for name in stage.writes]
            rows = [s.rows(stop - start) for s in sums]
            place = (start - first, end - stop, level.cell, first)
            (operator or ops.stage)(stage.kind, inputs, gate, stage.weights, outputs, rows, place)
            storage.release()
            for name, output in zip(stage.writes, outputs, strict=True):
                if output.dtype == torch.float16 and name in line.unseen:
                    low, high = output.aminmax()
                    mine.require(low.isfinite() & high.isfinite(), lambda: _overflow(torch.float16))
                if name == OUTPUT:
                    sink.write(start, stop, output)
                else:
                    storage.store(name, start, stop, output)
            for whole, part in zip(sums, rows, strict=True):
                whole.add(start, part)

        for index, stage in enumerate(line.stages):
            level = plan.level(index)
            # An infinity stays one through every skip and reaches the means of the maps after it. But means are of values
            # before they are rounded to 16 bits, and after the last maps there are none: those are `line.unseen`.
            if index == last_gate and stage.gate:
                finite = torch.cat([means[name].flatten() for name in stage.gate.means]).isfinite().all()
                mine.require(finite, lambda: _overflow(line.storage))
            gate = stage.gate(means) if stage.gate else None
            means = {name: mean for name, mean in means.items() if line.last_use[name] > index}
            channels = [line.maps[name].channels for name in stage.sums]
            sums = [Sums(level.height, level.width, level.cell, count, device) for count in channels]
            bands = list(plan.bands(index))
            for band, following in zip(bands, [*bands[1:], None], strict=True):
                run_band(stage, level, gate, sums, band, following)
                done += work[index] * (band[1] - band[0])
                if progress:
                    progress(done / total)
            new = {name: s.means() for name, s in zip(stage.sums, sums, strict=True) if name in line.last_use}
            means |= {name: averages.add(name, mean) for name, mean in new.items()} if averages else new
    if checks is None:
        mine.look()


def _overflow(dtype: torch.dtype) -> ValueError:
    name = str(dtype).removeprefix("torch.")
    return ValueError(f"the network's maps overflow {name} on this picture; use dtype bfloat16 or float32")
