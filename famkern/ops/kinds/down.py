"""The stage that leads to half the scale: convolve 2x2 pixels to one, begin the next group.

    x = down(a)                               2x2, stride 2; one row or column of zeros more where a side of a is odd
    z = conv2(relu(conv1(x)) + x)

Source: `down` of the U-shaped student.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .. import formulas
from .kind import BLOCK, EVERYWHERE, Kind, Operand, convolution


def reference(maps: Sequence[Tensor], _gate: None, weights: Sequence[Tensor], _first_row: int) -> tuple[Tensor, ...]:
    """The formulas."""
    (a,), (weight, bias, *block) = maps, weights
    even = F.pad(a, (0, 0, 0, a.shape[2] % 2, 0, a.shape[1] % 2)).permute(0, 3, 1, 2)
    x = F.conv2d(even, weight, bias, stride=2).permute(0, 2, 3, 1)
    return x, formulas.convolve_block(x, *block)


KIND = Kind(
    "down",
    maps=(Operand("a", scale="fine"),),
    weights=convolution("down", "C I 2 2") | BLOCK,
    outputs=("x", "z"),
    sums=("z",),
    convolutions=2,
    reference=reference,
    gated=False,
    kernels=EVERYWHERE,
)
