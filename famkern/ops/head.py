"""The first stage: normalise the picture, lift it to C channels, convolve the first block.

    x1 = (image - mean) / std                 zero outside the image, so normalise before padding
    x  = pre(x1)
    z  = conv2(relu(conv1(x)) + x)
    sums[row] = sums of z over its cells

Source: `pre` and the first half of the first `Block` of the student, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import formulas
from .library import LIBRARY, register_stage
from .route import operator

LIBRARY.define(
    "head_stage(Tensor image, Tensor mean, Tensor std, Tensor pre_weight, Tensor pre_bias,"
    " Tensor conv1_weight, Tensor conv1_bias, Tensor conv2_weight, Tensor conv2_bias,"
    " Tensor(a!) out_x, Tensor(b!) out_z, Tensor(c!) z_sums, int top, int bottom, int cell) -> ()"
)


def reference(
    image: Tensor,
    mean: Tensor,
    std: Tensor,
    pre_weight: Tensor,
    pre_bias: Tensor,
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
) -> None:
    """The stage in plain PyTorch, for any device and width; arguments as in `head_stage`."""
    x = formulas.conv3x3((image - mean) / std, pre_weight, pre_bias)
    z = formulas.convolve_block(x, conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    z = formulas.crop(z, top, bottom)
    out_x.copy_(formulas.crop(x, top, bottom))
    out_z.copy_(z)
    z_sums.copy_(formulas.row_sums(z, cell))


register_stage("head_stage", reference)


def head_stage(
    maps: Sequence[Tensor],
    gate: None,
    weights: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sums: Sequence[Tensor],
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """Run the stage on one band of rows; the results are written into `outputs` and `sums`.

    maps     image             (B, top + rows + bottom, W, 3), RGB in [0, 1], dtype of the weights
    weights  mean (3,), std (3,); pre (C, 3, 3, 3), (C,); conv1 and conv2 of the first block, (C, C, 3, 3) and (C,)
    outputs  x, z              (B, rows, W, C), any floating dtype
    sums     sums of z         (B, rows, cells, C) float64, see formulas.row_sums
    top, bottom                halo rows above and below, 3 or more; fewer only where the image ends
    cell                       columns of a cell: 4 or a multiple of it, or the width for one sum a row
    first_row                  of the image, with which the band begins; of no use here

    For inference: there is no gradient.
    """
    way = operator("head_stage", reference, weights[4], outputs[0].dtype)
    way(*maps, *weights, *outputs, *sums, top, bottom, cell)
