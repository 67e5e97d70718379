"""Reduce a picture: reduced pixel (i, j) is a mean of the pixels around its centre, ((i + 1/2) k - 1/2, (j + 1/2) k - 1/2).

    w[y] = max(0, 1 - |y - centre| / k)               along rows, and the same along columns
    out  = sum of w[y] w[x] image[y, x] / sum of w[y] w[x]      over the pixels that there are, clamped to [0, 1]

The triangle is the linear filter that enlargement by k has, and half a decibel better than means over k x k pixels
(docs/reduced-scale.md). It weighs 2 k pixels along a side, 2 k - 1 for odd k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .library import LIBRARY
from .reduced import operator, to_unit

LIBRARY.define("reduce_picture(Tensor image, Tensor(a!) out, int scale, int image_row, int row) -> ()")


def reference(image: Tensor, out: Tensor, scale: int, image_row: int, row: int) -> None:
    """`reduce_picture` in plain PyTorch, for any device."""
    x = to_unit(image, out.dtype)
    x = _mean(x, 0, scale, image_row, row, out.shape[0])
    out.copy_(_mean(x, 1, scale, 0, 0, out.shape[1]).clamp(0, 1))


def _mean(x: Tensor, side: int, scale: int, first: int, row: int, rows: int) -> Tensor:
    """Weighted means along a side that begins with number `first`: reduced numbers row, row + 1, ..."""
    reduced = torch.arange(row, row + rows, device=x.device)
    shape = (-1, 1, 1) if side == 0 else (1, -1, 1)
    total, weights = x.new_zeros(()), x.new_zeros(())
    for place in range(2 * scale - scale % 2):
        at = reduced * scale - scale // 2 + place - first
        weight = 2 * scale - abs(2 * (place - scale // 2) + 1 - scale)  # times 2 k: a whole number
        here = (weight * ((at >= 0) & (at < x.shape[side]))).to(x.dtype).view(shape)
        total = total + here * x.index_select(side, at.clamp(0, x.shape[side] - 1))
        weights = weights + here
    return total / weights


LIBRARY.impl("reduce_picture", reference, "CompositeExplicitAutograd")
torch.library.register_fake("famkern::reduce_picture", lambda *_arguments: None, lib=LIBRARY)


def reduce_picture(image: Tensor, out: Tensor, *, scale: int, image_row: int, row: int) -> None:
    """Reduce one band of rows; the result is written into `out`.

    Args:
        image: (rows, W, 3), rows image_row, image_row + 1, ... of a picture: uint8, uint16, or float32 or float64 in
            [0, 1]; any strides. It holds all rows that have weight in the reduced ones: from row * scale - scale // 2 to at
            most (row + n + 1) * scale; fewer only where the picture ends.
        out: (n, ceil(W / scale), 3) contiguous, rows row, row + 1, ... of the reduced picture, RGB in [0, 1]: float32 or
            float64, which is the precision of the arithmetic.
        scale: 1 to 8.
        image_row, row: see above.

    The bits do not depend on the band. For inference: there is no gradient.
    """
    operator("reduce_picture", reference, out.device)(image, out, scale, image_row, row)
