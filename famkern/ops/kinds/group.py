"""The stage at the end of a group: finish its last block, the group's convolution and skip, begin the next group.

    x' = z g * pa(z g) + x
    r  = conv(x') + skip                      skip: the group's input
    z' = conv2(relu(conv1(r)) + r)            not in `last_group`, after which no block follows at this scale

Three maps are read and two written (one by `last_group`). Source: `Outer` of the student, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import formulas
from .kind import BLOCK, EVERYWHERE, PIXEL_ATTENTION, Kind, Operand, convolution


def finish_group(maps: Sequence[Tensor], gate: Tensor, weights: Sequence[Tensor], _first_row: int) -> tuple[Tensor]:
    """r of x, z, skip and the weights of the pixel attention and the convolution."""
    x, z, skip = maps
    return (formulas.conv3x3(formulas.finish_block(x, z, gate, *weights[:4]), *weights[4:]) + skip,)


def reference(maps: Sequence[Tensor], gate: Tensor, weights: Sequence[Tensor], first_row: int) -> tuple[Tensor, ...]:
    """The formulas."""
    (r,) = finish_group(maps, gate, weights[:6], first_row)
    return r, formulas.convolve_block(r, *weights[6:])


MAPS = (Operand("x"), Operand("z"), Operand("skip"))

KIND = Kind(
    "group",
    maps=MAPS,
    weights=PIXEL_ATTENTION | convolution("conv") | BLOCK,
    outputs=("r", "z"),
    sums=("r", "z"),
    convolutions=3,
    reference=reference,
    kernels=EVERYWHERE,
)

LAST = Kind(
    "last_group",
    maps=MAPS,
    weights=PIXEL_ATTENTION | convolution("conv"),
    outputs=("r",),
    sums=("r",),
    convolutions=1,
    reference=finish_group,
    kernels=EVERYWHERE,
)
