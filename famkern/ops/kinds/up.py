"""The stage that leads to twice the scale: four pixels from one, the skip of this level, begin the next group.

    x[i, j] = up[p] m[i // 2, j // 2] + skip a[i, j] + bias[p]        p = 2 (i % 2) + j % 2
    z       = conv2(relu(conv1(x)) + x)

That is a 1x1 convolution, a pixel shuffle, and a 1x1 convolution of both maps side by side, as one product of weights that
`compose` makes: pixels are multiplied once. Source: `up` and `fuse` of the U-shaped student; pixel shuffle: arXiv
1609.05158.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .. import formulas
from .kind import BLOCK, EVERYWHERE, Kind, Operand


def compose(up: Tensor, up_bias: Tensor, fuse: Tensor, fuse_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of `up` as one product, from those of the two convolutions that it is made of; differentiable.

    Args:
        up, up_bias: (4 C, I, 1, 1), (4 C,): outputs 4 k + p of the first one are channel k of pixel p.
        fuse, fuse_bias: (C, 2 C, 1, 1), (C,) of the second one, on the enlarged map and the skip.

    Returns:
        up (4, C, I), skip (C, C), bias (4, C).
    """
    C = fuse.shape[0]
    of_up, of_skip = fuse.flatten(1).split(C, 1)  # (C, C) each
    weight = torch.einsum("ok,kpi->poi", of_up, up.view(C, 4, -1))
    bias = torch.einsum("ok,kp->po", of_up, up_bias.view(C, 4)) + fuse_bias
    return weight, of_skip, bias


def join(m: Tensor, a: Tensor, up: Tensor, skip: Tensor, bias: Tensor, first_row: int = 0) -> Tensor:
    """x of m and the skip a, whose rows begin with this one of its level: (B, rows, W, C)."""
    four = F.linear(m, up.flatten(0, 1), bias.flatten())  # (B, rows, W, 4 C), the rows of half the scale
    shuffled = rearrange(four, "b i j (r c o) -> b (i r) (j c) o", r=2, c=2)
    above = first_row % 2  # a row that belongs to the first pixel of m alone
    return shuffled[:, above : above + a.shape[1], : a.shape[2]] + F.linear(a, skip)


def reference(maps: Sequence[Tensor], _gate: None, weights: Sequence[Tensor], first_row: int) -> tuple[Tensor, ...]:
    """The formulas."""
    (m, a), (up, skip, bias, *block) = maps, weights
    x = join(m, a, up, skip, bias, first_row)
    return x, formulas.convolve_block(x, *block)


KIND = Kind(
    "up",
    maps=(Operand("m", scale="coarse"), Operand("skip")),
    weights={"up": "4 C I", "skip": "C C", "bias": "4 C"} | BLOCK,
    outputs=("x", "z"),
    sums=("z",),
    convolutions=2,
    reference=reference,
    gated=False,
    kernels=EVERYWHERE,
)
