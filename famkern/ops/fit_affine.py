"""Fit an affine map, for each channel and around each pixel, that makes the target of the image: target = a image + b.

    mean(x)  = sum of v x / sum of v                  over a window of 17 x 17 pixels, cut at the border
    a' = (mean(image target) - mean(image) mean(target)) / (mean(image^2) - mean(image)^2 + EPSILON)
    b' = mean(target) - a' mean(image)
    a  = mean(a'),  b = mean(b')                      over the same windows once more

v weighs pixels: 0 keeps one out of all means. Where no pixel counts in the windows around, a = 1 and b = 0. A flat
window, of variance 2^-46 or less, has a' = 0 and b' = mean(target). Source: guided filter, see reduced.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .library import LIBRARY
from .reduced import EPSILON, RADIUS, operator

LIBRARY.define("fit_affine(Tensor image, Tensor target, Tensor? weights, Tensor(a!) a, Tensor(b!) b, int top) -> ()")

FLAT = 2.0**-46  # of equal pixels the variance is computed to within 2^-47; float32 is no finer than 2^-24 near 1


def reference(image: Tensor, target: Tensor, weights: Tensor | None, a: Tensor, b: Tensor, top: int) -> None:
    """`fit_affine` in plain PyTorch, for any device."""
    x, y = (t.double().permute(2, 0, 1) for t in (image, target))  # (3, rows, W)
    v = torch.ones_like(x[:1]) if weights is None else weights.double()[None]
    share = _mean(v)

    def mean(t: Tensor) -> Tensor:
        return _mean(v * t) / torch.where(share > 0, share, 1)

    mean_x, mean_y = mean(x), mean(y)
    variance = mean(x * x) - mean_x * mean_x
    slope = torch.where(variance > FLAT, (mean(x * y) - mean_x * mean_y) / (variance + EPSILON), 0)
    for out, fitted, nothing in ((a, slope, 1), (b, mean_y - slope * mean_x, 0)):
        smooth = torch.where(share > 0, mean(fitted), nothing)
        out.copy_(smooth.permute(1, 2, 0)[top : top + out.shape[0]])


def _mean(x: Tensor) -> Tensor:
    """Means over the part of a window that lies inside, (C, H, W)."""
    side = 2 * RADIUS + 1
    x = F.avg_pool2d(x, (side, 1), 1, (RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, RADIUS), count_include_pad=False)


LIBRARY.impl("fit_affine", reference, "CompositeExplicitAutograd")
torch.library.register_fake("famkern::fit_affine", lambda *_arguments: None, lib=LIBRARY)


def fit_affine(image: Tensor, target: Tensor, weights: Tensor | None, a: Tensor, b: Tensor, *, top: int) -> None:
    """Fit one band of rows; the results are written into `a` and `b`.

    Args:
        image: (rows, w, 3) contiguous, in [0, 1], float32 or float64.
        target: likewise, what the network makes of it.
        weights: (rows, w), likewise, 0 or more; None: every pixel counts.
        a, b: (n, w, 3), likewise. Row 0 is row `top` of the others.
        top: rows above the band, 2 RADIUS; there are as many below it. Fewer only where the picture ends.

    Arithmetic is in float64; the bits do not depend on the band. For inference: there is no gradient.
    """
    operator("fit_affine", reference, a.device)(image, target, weights, a, b, top)
