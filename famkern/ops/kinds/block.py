"""An ordinary block stage: finish one block on the fly, then convolve the next.

    x' = z g * pa(z g) + x                    g: channel gate of the block before, pa: its pixel attention
    z' = conv2(relu(conv1(x')) + x')

Two maps are read and two written; nothing between them need ever leave a cache. Source: `Block` of the student,
arXiv 2207.11250.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import formulas
from .kind import BLOCK, EVERYWHERE, PIXEL_ATTENTION, Kind, Operand


def reference(maps: Sequence[Tensor], gate: Tensor, weights: Sequence[Tensor], _first_row: int) -> tuple[Tensor, ...]:
    """The formulas."""
    x = formulas.finish_block(*maps, gate, *weights[:4])
    return x, formulas.convolve_block(x, *weights[4:])


KIND = Kind(
    "block",
    maps=(Operand("x"), Operand("z")),
    weights=PIXEL_ATTENTION | BLOCK,
    outputs=("x", "z"),
    sums=("z",),
    convolutions=2,
    reference=reference,
    kernels=EVERYWHERE,
)
