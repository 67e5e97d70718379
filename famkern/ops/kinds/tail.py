"""The student's last stage: weigh the groups, pixel attention, back to RGB, add the normalised picture, clamp.

    o = w[0] r1 + w[1] r2 + ...               w: channel attention over all groups' channels
    o = o * pa(o)
    y = clamp(post2(post1(o)) + (image - mean) / std, 0, 1)

The gate has the channels of all groups, side by side. Source: the end of the student's forward pass, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import formulas
from .kind import EVERYWHERE, NORMALISATION, PIXEL_ATTENTION, Kind, Operand, convolution


def reference(maps: Sequence[Tensor], gate: Tensor, weights: Sequence[Tensor], _first_row: int) -> tuple[Tensor]:
    """The formulas."""
    (image, *groups), (mean, std, *others) = maps, weights
    o = torch.zeros((), dtype=mean.dtype, device=mean.device)
    for share, r in zip(gate.chunk(len(groups), dim=3), groups, strict=True):
        o = o + share * r
    o = formulas.pixel_attention(o, *others[:4])
    o = formulas.conv3x3(formulas.conv3x3(o, *others[4:6]), *others[6:])
    return ((o + (image - mean) / std).clamp(0, 1),)


KIND = Kind(
    "tail",
    maps=(Operand("image", picture=True), Operand("r", repeated=True)),
    weights=NORMALISATION | PIXEL_ATTENTION | convolution("post1") | convolution("post2", "3 C 3 3"),
    outputs=("y",),
    sums=(),
    convolutions=2,
    reference=reference,
    kernels=EVERYWHERE,
)
