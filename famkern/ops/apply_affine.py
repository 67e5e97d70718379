"""Apply an affine map of colours, known for each pixel of the reduced picture, to the picture.

    a, b  enlarged bilinearly: row y lies at (y + 1/2) / k - 1/2, moved inside the reduced picture; columns likewise
    y     = clamp(a image + b, 0, 1)
    out   = clamp(image + strength (y - image), 0, 1); y for strength 1

Source: fast guided filter, see reduced.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .library import LIBRARY
from .reduced import from_unit, operator, to_unit

LIBRARY.define(
    "apply_affine(Tensor image, Tensor a, Tensor b, Tensor(a!) out, int scale, float strength, int row, int map_row) -> ()"
)


def reference(
    image: Tensor, a: Tensor, b: Tensor, out: Tensor, scale: int, strength: float, row: int, map_row: int
) -> None:
    """`apply_affine` in plain PyTorch, for any device."""
    x = to_unit(image, a.dtype)

    def enlarge(t: Tensor) -> Tensor:
        return _along(_along(t, 0, scale, row, x.shape[0], map_row), 1, scale, 0, x.shape[1], 0)

    y = (enlarge(a) * x + enlarge(b)).clamp(0, 1)
    if strength != 1:
        y = (x + strength * (y - x)).clamp(0, 1)
    out.copy_(from_unit(y, out.dtype))


def _along(t: Tensor, side: int, scale: int, first: int, count: int, map_first: int) -> Tensor:
    """Linear between the numbers of a side, which begins with reduced number `map_first`: at first, first + 1, ..."""
    last = map_first + t.shape[side] - 1
    twice = (2 * torch.arange(first, first + count, device=t.device) + 1 - scale).clamp(0, 2 * scale * last)
    low = twice // (2 * scale)
    part = ((twice % (2 * scale)).to(t.dtype) / (2 * scale)).view((-1, 1, 1) if side == 0 else (1, -1, 1))
    below, above = (t.index_select(side, at - map_first) for at in (low, (low + 1).clamp(max=last)))
    return below + part * (above - below)


LIBRARY.impl("apply_affine", reference, "CompositeExplicitAutograd")
torch.library.register_fake("famkern::apply_affine", lambda *_arguments: None, lib=LIBRARY)


def apply_affine(
    image: Tensor, a: Tensor, b: Tensor, out: Tensor, *, scale: int, strength: float, row: int, map_row: int
) -> None:
    """Apply the maps to one band of rows; the result is written into `out`.

    Args:
        image: (rows, W, 3), rows row, row + 1, ... of the picture: uint8, uint16, or float32 or float64 in [0, 1]; any
            strides.
        a, b: (n, ceil(W / scale), 3) contiguous, float32 or float64, which is the precision of the arithmetic: rows
            map_row, map_row + 1, ..., all between which rows of the image lie; fewer only where the picture ends.
        out: like image, of any strides; integers are rounded half to even.
        scale: 1 to 8.
        strength: 0 for the image, 1 for the full effect, above 1 for more.
        row, map_row: see above.

    The bits do not depend on the band. For inference: there is no gradient.
    """
    operator("apply_affine", reference, a.device)(image, a, b, out, scale, strength, row, map_row)
