"""An ordinary block stage: finish one block on the fly, then convolve the next.

    x' = z g * pa(z g) + x                    g: channel gate of the block before, pa: its pixel attention
    z' = conv2(relu(conv1(x')) + x')
    sums[row] = sums of z' over its cells     for the next channel gate

Two maps are read and two written; nothing between them need ever leave a cache. Source: `Block` of the student,
arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import formulas
from .library import LIBRARY, register_stage
from .route import operator

LIBRARY.define(
    "block_stage(Tensor x, Tensor z, Tensor gate,"
    " Tensor pixel_weight1, Tensor pixel_bias1, Tensor pixel_weight2, Tensor pixel_bias2,"
    " Tensor conv1_weight, Tensor conv1_bias, Tensor conv2_weight, Tensor conv2_bias,"
    " Tensor(a!) out_x, Tensor(b!) out_z, Tensor(c!) z_sums, int top, int bottom, int cell, int first_row) -> ()"
)


def reference(
    x: Tensor,
    z: Tensor,
    gate: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    out_x: Tensor,
    out_z: Tensor,
    z_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """The stage in plain PyTorch, for any device and width; arguments as in `block_stage`."""
    compute = conv1_weight.dtype
    x, z = x.to(compute), z.to(compute)
    gate = formulas.spread(gate, cell, first_row, *x.shape[1:3])
    x = formulas.finish_block(x, z, gate, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2)
    z = formulas.convolve_block(x, conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    z = formulas.crop(z, top, bottom)
    out_x.copy_(formulas.crop(x, top, bottom))
    out_z.copy_(z)
    z_sums.copy_(formulas.row_sums(z, cell))


register_stage("block_stage", reference)


def block_stage(
    maps: Sequence[Tensor],
    gate: Tensor,
    weights: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sums: Sequence[Tensor],
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """Run the stage on one band of rows; the results are written into `outputs` and `sums`.

    maps     x, z              (B, top + rows + bottom, W, C), float32, float64 or a 16-bit float
    gate     (B, Y, X, C)      channel gate of the block that is being finished, see formulas.spread
    weights  its pixel attention (C/8, C), (C/8,), (1, C/8), (1,); then conv1 and conv2 of the next block,
             (C, C, 3, 3) and (C,) each. Their dtype is the precision of the arithmetic: float32, or float64.
    outputs  x', z'            (B, rows, W, C), dtype of the maps; must not overlap what is read
    sums     sums of z'        (B, rows, cells, C) float64, see formulas.row_sums; of the values before they are rounded
    top, bottom                halo rows above and below, 2 or more; fewer only where the image ends
    cell                       columns, and rows, of a cell: 4 or a multiple of it, or the width for one mean of all
    first_row                  of the image, with which x and z begin

    For inference: there is no gradient.
    """
    way = operator("block_stage", reference, weights[4], maps[0].dtype)
    way(*maps, gate, *weights, *outputs, *sums, top, bottom, cell, first_row)
