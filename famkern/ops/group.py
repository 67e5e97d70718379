"""The stage at the end of a group: finish its last block, the group's convolution and skip, begin the next group.

    x' = z g * pa(z g) + x
    r  = conv(x') + skip                      skip: the group's input
    z' = conv2(relu(conv1(r)) + r)            left out after the last group
    sums[row] = sums of z' and of r over that row

Three maps are read and two written (one after the last group). Source: `Outer` of the student, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import formulas


@torch.library.custom_op("famkern::group_stage", mutates_args=("out_r", "r_sums", "out_z", "z_sums"))
def _group_stage(
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
    next_block: Sequence[Tensor],
    out_r: Tensor,
    out_z: Sequence[Tensor],
    r_sums: Tensor,
    z_sums: Sequence[Tensor],
    top: int,
    bottom: int,
) -> None:
    compute = conv_weight.dtype
    x, z, skip = x.to(compute), z.to(compute), skip.to(compute)
    x = formulas.finish_block(x, z, gate, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2)
    r = formulas.conv3x3(x, conv_weight, conv_bias) + skip
    if next_block:
        z = formulas.crop(formulas.convolve_block(r, *next_block), top, bottom)
        out_z[0].copy_(z)
        z_sums[0].copy_(formulas.row_sums(z))
    r = formulas.crop(r, top, bottom)
    out_r.copy_(r)
    r_sums.copy_(formulas.row_sums(r))


@_group_stage.register_fake
def _(*_arguments: object) -> None:
    return None


def group_stage(
    maps: Sequence[Tensor],
    gate: Tensor,
    weights: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sums: Sequence[Tensor],
    top: int,
    bottom: int,
) -> None:
    """Run the stage on one band of rows; the results are written into `outputs` and `sums`.

    maps     x, z, skip        (B, top + rows + bottom, W, C), float32, float64 or a 16-bit float
    gate     (B, C)            channel gate of the group's last block
    weights  its pixel attention (C/8, C), (C/8,), (1, C/8), (1,); the group's convolution (C, C, 3, 3), (C,); then,
             except after the last group, conv1 and conv2 of the next block, (C, C, 3, 3) and (C,) each
    outputs  r and z'          (B, rows, W, C), dtype of the maps; after the last group r alone
    sums     of r and of z'    (B, rows, C) float64; after the last group of r alone
    top, bottom                halo rows above and below, 3 or more (1 after the last group); fewer only where the
                               image ends

    For inference: there is no gradient.
    """
    _group_stage(
        *maps, gate, *weights[:6], weights[6:], outputs[0], outputs[1:], sums[0], sums[1:], top, bottom
    )  # fmt: skip
