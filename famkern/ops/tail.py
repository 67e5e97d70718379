"""The last stage: weigh the groups, pixel attention, back to RGB, add the normalised picture, clamp.

    o = w[0] r1 + w[1] r2 + ...               w: channel attention over all groups' channels
    o = o * pa(o)
    y = clamp(post2(post1(o)) + (image - mean) / std, 0, 1)

Source: the end of the student's forward pass, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import formulas
from .library import LIBRARY, register_stage
from .route import operator

LIBRARY.define(
    "tail_stage(Tensor image, Tensor[] groups, Tensor gate, Tensor mean, Tensor std,"
    " Tensor pixel_weight1, Tensor pixel_bias1, Tensor pixel_weight2, Tensor pixel_bias2,"
    " Tensor post1_weight, Tensor post1_bias, Tensor post2_weight, Tensor post2_bias,"
    " Tensor(a!) out, int top, int bottom, int cell, int first_row) -> ()"
)


def reference(
    image: Tensor,
    groups: Sequence[Tensor],
    gate: Tensor,
    mean: Tensor,
    std: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    post1_weight: Tensor,
    post1_bias: Tensor,
    post2_weight: Tensor,
    post2_bias: Tensor,
    out: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """The stage in plain PyTorch, for any device and width; arguments as in `tail_stage`."""
    o = torch.zeros((), dtype=post1_weight.dtype, device=out.device)
    gate = formulas.spread(gate, cell, first_row, *image.shape[1:3])
    for share, r in zip(gate.chunk(len(groups), dim=3), groups, strict=True):
        o = o + share * r.to(post1_weight.dtype)
    o = formulas.pixel_attention(o, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2)
    o = formulas.conv3x3(formulas.conv3x3(o, post1_weight, post1_bias), post2_weight, post2_bias)
    out.copy_(formulas.crop(o + (image - mean) / std, top, bottom).clamp(0, 1))


register_stage("tail_stage", reference)


def tail_stage(
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
    """Run the stage on one band of rows; the result is written into `outputs`.

    maps     image, r1, r2 ... image (B, top + rows + bottom, W, 3) in [0, 1], dtype of the weights; the groups' maps
                               (B, top + rows + bottom, W, C), float32, float64 or a 16-bit float
    gate     (B, Y, X, groups C) weights of the groups' channels, see formulas.spread
    weights  mean (3,), std (3,); pixel attention (C/8, C), (C/8,), (1, C/8), (1,); post1 (C, C, 3, 3), (C,); post2
             (3, C, 3, 3), (3,)
    outputs  y                 (B, rows, W, 3), dtype of the weights, RGB in [0, 1]
    sums     empty
    top, bottom                halo rows above and below, 2 or more; fewer only where the image ends
    cell                       columns, and rows, of a cell, or the width for one mean of all
    first_row                  of the image, with which image and maps begin

    For inference: there is no gradient.
    """
    image, *groups = maps
    way = operator("tail_stage", reference, weights[6], groups[0].dtype)
    way(image, groups, gate, *weights, *outputs, top, bottom, cell, first_row)
