"""The operator of all stages: famkern::stage, for whatever kind the table in kinds/ has.

A stage reads maps, writes maps, and leaves the sums of what it wrote, from which the next means are made. It is called
for one band of rows at a time. The CPU's kernels and those in CUDA C++ are registered by csrc/stages.cpp, those in Triton
here; the reference takes any device, width and precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import formulas, route
from .kinds import KINDS
from .library import LIBRARY

LIBRARY.define(
    "stage(str kind, Tensor[] maps, Tensor? gate, Tensor[] weights, Tensor(a!)[] outputs, Tensor(b!)[] sums, int[] place)"
    " -> ()"
)

# csrc/stages.cpp is registered for CPUs, and runs a call where its tensors lie.
_COMPILED = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def stage(
    kind: str,
    maps: Sequence[Tensor],
    gate: Tensor | None,
    weights: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sums: Sequence[Tensor],
    place: Sequence[int],
) -> None:
    """Run a stage on one band of rows; the results are written into `outputs` and `sums`.

    Args:
        kind: a name out of `KINDS`, which says what maps, weights, outputs and sums there are, in which order.
        maps: channels-last, float32, float64 or a 16-bit float, with `top` and `bottom` rows more than the outputs:
            (B, top + rows + bottom, W, C). One of twice as many pixels a side has rows 2 first_row ... of its own level, up
            to 2 (first_row + top + rows + bottom) or where it ends; one of half as many has rows first_row // 2 ... up to
            half of that, rounded up.
        gate: (B, Y, X, gates) weights of channels at the corners of cells, see `formulas.interpolate`; or None.
        weights: their dtype is the precision of the arithmetic, float32 or float64, and that of pictures.
        outputs: (B, rows, W, C), of the maps' dtype; they must not overlap what is read. Pictures are RGB in [0, 1].
        sums: (B, rows, cells, C) float64, see `formulas.row_sums`; of values before they are rounded to the maps' dtype.
        place: top, bottom: halo rows above and below, as many as the kind has convolutions or more, fewer only where the
            image ends; cell: columns, and rows, of a cell: 4 or a multiple of it, or the width or more for one mean of all;
            first_row: of the outputs' level, with which maps begin.

    For inference: there is no gradient.
    """
    channels = {t.shape[3] for t in (*maps, *outputs)} - {3}
    chosen = route.choose(outputs[0].device, channels, weights[0].dtype, KINDS[kind])
    way = reference if chosen is route.REFERENCE else torch.ops.famkern.stage
    way(kind, maps, gate, weights, outputs, sums, place)


def reference(
    kind: str,
    maps: Sequence[Tensor],
    gate: Tensor | None,
    weights: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sums: Sequence[Tensor],
    place: Sequence[int],
) -> None:
    """`stage` in plain PyTorch."""
    top, bottom, cell, first_row = place
    rows, width = top + outputs[0].shape[1] + bottom, outputs[0].shape[2]
    if gate is not None:
        gate = formulas.interpolate(gate, cell, first_row, rows, width)
    row = KINDS[kind]
    results = row.reference([m.to(weights[0].dtype) for m in maps], gate, weights, first_row)
    results = tuple(formulas.crop(result, top, bottom) for result in results)
    for output, result in zip(outputs, results, strict=True):
        output.copy_(result)
    for name, sum_ in zip(row.sums, sums, strict=True):
        sum_.copy_(formulas.row_sums(results[row.outputs.index(name)], cell))


def _on_gpu(*arguments: Any) -> None:
    kind, maps, _, _, outputs, *_ = arguments
    if route.is_in_cuda(KINDS[kind], (*maps, *outputs)):
        torch.ops.famkern.stage.default.redispatch(_COMPILED, *arguments)
    else:
        from ..kernels import stages  # when a CUDA tensor first needs it

        stages.stage(*arguments)


# The low-level registration on purpose: torch.library.custom_op imports PyTorch's compiler at the first call, which takes a
# second and a hundred megabytes.
LIBRARY.impl("stage", reference, "CompositeExplicitAutograd")
LIBRARY.impl("stage", _on_gpu, "CUDA")
torch.library.register_fake("famkern::stage", lambda *_arguments: None, lib=LIBRARY)
