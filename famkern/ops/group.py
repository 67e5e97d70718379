"""The stage at the end of a group: finish its last block, the group's convolution and skip, begin the next group.

    x' = z g * pa(z g) + x
    r  = conv(x') + skip                      skip: the group's input
    z' = conv2(relu(conv1(r)) + r)            not after the last group
    sums[row] = sums of r and of z' over its cells

Three maps are read and two written (one after the last group). Source: `Outer` of the student, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import formulas
from .library import LIBRARY, register_stage
from .route import operator

LIBRARY.define(
    "group_stage(Tensor x, Tensor z, Tensor skip, Tensor gate,"
    " Tensor pixel_weight1, Tensor pixel_bias1, Tensor pixel_weight2, Tensor pixel_bias2,"
    " Tensor conv_weight, Tensor conv_bias,"
    " Tensor conv1_weight, Tensor conv1_bias, Tensor conv2_weight, Tensor conv2_bias,"
    " Tensor(a!) out_r, Tensor(b!) out_z, Tensor(c!) r_sums, Tensor(d!) z_sums,"
    " int top, int bottom, int cell, int first_row) -> ()"
)
LIBRARY.define(
    "last_group_stage(Tensor x, Tensor z, Tensor skip, Tensor gate,"
    " Tensor pixel_weight1, Tensor pixel_bias1, Tensor pixel_weight2, Tensor pixel_bias2,"
    " Tensor conv_weight, Tensor conv_bias, Tensor(a!) out_r, Tensor(b!) r_sums,"
    " int top, int bottom, int cell, int first_row) -> ()"
)


def _finish_group(
    x: Tensor,
    z: Tensor,
    skip: Tensor,
    gate: Tensor,
    pixel_weights: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    cell: int,
    first_row: int,
) -> Tensor:
    gate = formulas.spread(gate, cell, first_row, *x.shape[1:3])
    x, z, skip = x.to(weight.dtype), z.to(weight.dtype), skip.to(weight.dtype)
    return formulas.conv3x3(formulas.finish_block(x, z, gate, *pixel_weights), weight, bias) + skip


def reference(
    x: Tensor,
    z: Tensor,
    skip: Tensor,
    gate: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    out_r: Tensor,
    out_z: Tensor,
    r_sums: Tensor,
    z_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """The stage in plain PyTorch, for any device and width; arguments as in `group_stage`."""
    pixel_weights = (pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2)
    r = _finish_group(x, z, skip, gate, pixel_weights, conv_weight, conv_bias, cell, first_row)
    z = formulas.crop(formulas.convolve_block(r, conv1_weight, conv1_bias, conv2_weight, conv2_bias), top, bottom)
    r = formulas.crop(r, top, bottom)
    out_r.copy_(r)
    out_z.copy_(z)
    r_sums.copy_(formulas.row_sums(r, cell))
    z_sums.copy_(formulas.row_sums(z, cell))


def last_reference(
    x: Tensor,
    z: Tensor,
    skip: Tensor,
    gate: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    out_r: Tensor,
    r_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """The stage after the last group in plain PyTorch; arguments as in `last_group_stage`."""
    pixel_weights = (pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2)
    r = _finish_group(x, z, skip, gate, pixel_weights, conv_weight, conv_bias, cell, first_row)
    r = formulas.crop(r, top, bottom)
    out_r.copy_(r)
    r_sums.copy_(formulas.row_sums(r, cell))


register_stage("group_stage", reference)
register_stage("last_group_stage", last_reference)


def group_stage(
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

    maps     x, z, skip        (B, top + rows + bottom, W, C), float32, float64 or a 16-bit float
    gate     (B, Y, X, C)      channel gate of the group's last block, see formulas.spread
    weights  its pixel attention (C/8, C), (C/8,), (1, C/8), (1,); the group's convolution (C, C, 3, 3), (C,); conv1 and
             conv2 of the next block, (C, C, 3, 3) and (C,) each. Their dtype is the precision of the arithmetic.
    outputs  r, z'             (B, rows, W, C), dtype of the maps; must not overlap what is read
    sums     sums of both      (B, rows, cells, C) float64, see formulas.row_sums; of the values before they are rounded
    top, bottom                halo rows above and below, 3 or more; fewer only where the image ends
    cell                       columns, and rows, of a cell: 4 or a multiple of it, or the width for one mean of all
    first_row                  of the image, with which the maps begin

    For inference: there is no gradient.
    """
    way = operator("group_stage", reference, weights[4], maps[0].dtype)
    way(*maps, gate, *weights, *outputs, *sums, top, bottom, cell, first_row)


def last_group_stage(
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
    """As `group_stage`, without the next block: weights end with the group's convolution, r alone is written.

    One row of halo is enough.
    """
    way = operator("last_group_stage", last_reference, weights[4], maps[0].dtype)
    way(*maps, gate, *weights, *outputs, *sums, top, bottom, cell, first_row)
