"""The last stage of a U-shaped student: finish its last group, a gain and offsets for each pixel, clamp.

    x' = z g * pa(z g) + x
    o  = post(conv(x') + skip)                skip: the group's input
    x1 = (image - mean) / std
    y  = clamp(K x1 - B + x1, 0, 1)           K = o[0], B = o[1:4], where post has four outputs
    y  = clamp(o + x1, 0, 1)                  where it has three

Source: the end of the U-shaped student; the gain and offsets: gUNet, arXiv 2209.11448.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import formulas
from .group import finish_group
from .kind import EVERYWHERE, NORMALISATION, PIXEL_ATTENTION, Kind, Operand, convolution


def reference(maps: Sequence[Tensor], gate: Tensor, weights: Sequence[Tensor], first_row: int) -> tuple[Tensor]:
    """The formulas."""
    (image, *group), (mean, std, *others) = maps, weights
    (r,) = finish_group(group, gate, others[:6], first_row)
    o, x1 = formulas.conv3x3(r, *others[6:]), (image - mean) / std
    y = o[..., :1] * x1 - o[..., 1:] + x1 if o.shape[3] == 4 else o + x1
    return (y.clamp(0, 1),)


KIND = Kind(
    "u_tail",
    maps=(Operand("image", picture=True), Operand("x"), Operand("z"), Operand("skip")),
    weights=NORMALISATION | PIXEL_ATTENTION | convolution("conv") | convolution("post", "O C 3 3"),
    outputs=("y",),
    sums=(),
    convolutions=2,
    reference=reference,
    kernels=EVERYWHERE,
)
