"""The first stage: normalise the picture, lift it to C channels, convolve the first block.

    x1 = (image - mean) / std                 zero outside the image, so normalise before padding
    x  = pre(x1)
    z  = conv2(relu(conv1(x)) + x)

Source: `pre` and the first half of the first `Block` of the student, arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import formulas
from .kind import BLOCK, EVERYWHERE, NORMALISATION, Kind, Operand, convolution


def reference(maps: Sequence[Tensor], _gate: Tensor, weights: Sequence[Tensor], _first_row: int) -> tuple[Tensor, ...]:
    """The formulas."""
    (image,), (mean, std, *convolutions) = maps, weights
    x = formulas.conv3x3((image - mean) / std, *convolutions[:2])
    return x, formulas.convolve_block(x, *convolutions[2:])


KIND = Kind(
    "head",
    maps=(Operand("image", picture=True),),
    weights=NORMALISATION | convolution("pre", "C 3 3 3") | BLOCK,
    outputs=("x", "z"),
    sums=("z",),
    convolutions=3,
    reference=reference,
    gated=False,
    kernels=EVERYWHERE,
)
