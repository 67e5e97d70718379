"""The stage that leads to twice the scale: four pixels from one, the skip of this level, begin the next group.

    x[i, j] = up[p] m[i // 2, j // 2] + skip a[i, j] + bias[p]        p = 2 (i % 2) + j % 2
    z       = conv2(relu(conv1(x)) + x)

That is a 1x1 convolution, a pixel shuffle, and a 1x1 convolution of both maps side by side, as one product: the weights
are composed where the line is made. Source: `up` and `fuse` of the U-shaped student; pixel shuffle: arXiv 1609.05158.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .. import formulas
from .kind import BLOCK, Kind, Operand


def reference(maps: Sequence[Tensor], _gate: None, weights: Sequence[Tensor], first_row: int) -> tuple[Tensor, ...]:
    """The formulas."""
    (m, a), (up, skip, bias, *block) = maps, weights
    four = F.linear(m, up.flatten(0, 1), bias.flatten())  # (B, rows, W, 4 C), the rows of half the scale
    shuffled = rearrange(four, "b i j (r c o) -> b (i r) (j c) o", r=2, c=2)
    above = first_row % 2  # a row that belongs to the first pixel of m alone
    x = shuffled[:, above : above + a.shape[1], : a.shape[2]] + F.linear(a, skip)
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
    kernels=frozenset({"compiled"}),
)
