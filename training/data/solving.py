"""Depth from what hazy pictures of one view tell, and from files with gaps.

With I = J t + A (1 - t) and t = exp(-beta d), each hazy version k of a clear picture J gives, at each pixel,

    t_k = <I_k - A, J - A> / <J - A, J - A>        the least squares over the channels
    d   = sum_k w_k beta_k (-log t_k) / sum_k w_k beta_k^2,        w_k = <J - A, J - A> t_k^2

where w_k is the inverse variance of log t_k, up to a factor: rounding to 8 bits is the same everywhere, and counts the
more the darker t makes the picture's own light. Only products beta d are determined, so that d is relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .store import Pixels

Floats = NDArray[np.float32]

FAR = 0.999  # quantile of solved depth that becomes 1; the very largest value may be an error
FAR_IN_FILES = 0.95  # the same for depth from files, which has outliers, and in streets a long tail
LEAST_T = 1 / 255  # transmission below which 8 bits tell nothing


def solve_depth(clear: Pixels, versions: Sequence[tuple[Pixels, float]]) -> tuple[Floats, list[float]]:
    """Relative depth of a view, and the density of each of its hazy versions.

    Args:
        clear: (H, W, 3) uint8.
        versions: at least one hazy picture, (H, W, 3) uint8, with the brightness of its airlight, in [0, 1].

    Returns:
        Depth (H, W), not negative, with 0.999-quantile 1; where all versions are blind (the clear picture has the colour
        of the airlight) it is filled from the surroundings. And beta of each version.
    """
    j = clear.astype(np.float32) / 255
    thickness, weight = [], []
    for picture, airlight in versions:
        contrast, haze = j - np.float32(airlight), picture.astype(np.float32) / 255 - np.float32(airlight)
        power = (contrast**2).sum(2)
        t = ((haze * contrast).sum(2) / (power + 1e-9)).clip(LEAST_T, 1)
        thickness.append(-np.log(t))
        weight.append(power * t * t)
    betas = _densities(thickness, weight)
    top = sum(w * b * x for w, b, x in zip(weight, betas, thickness, strict=True))
    bottom = sum(w * b * b for w, b in zip(weight, betas, strict=True))
    # Rounding alone moves log t by 1/(sqrt(12) 255) / sqrt(w): a weight of 1e-3 stands for an error of 0.04.
    depth = fill(np.asarray(top) / (np.asarray(bottom) + 1e-9), np.asarray(bottom), enough=1e-3)
    scale = float(np.quantile(depth, FAR))
    if scale < 1e-3:  # no haze at all
        return np.zeros_like(depth), [0.0 for _ in betas]
    return depth / np.float32(scale), [beta * scale for beta in betas]


def _densities(thickness: Sequence[NDArray[Any]], weight: Sequence[NDArray[Any]]) -> list[float]:
    """Densities relative to that of the thickest version, by least squares over the pixels that both show well."""
    thickest = max(range(len(weight)), key=lambda k: float((weight[k] * thickness[k]).sum() / (weight[k].sum() + 1e-9)))
    betas = []
    for x, w in zip(thickness, weight, strict=True):
        both = np.minimum(w, weight[thickest])
        across = float((both * x * thickness[thickest]).sum())
        betas.append(across / max(float((both * thickness[thickest] ** 2).sum()), 1e-9))
    return betas


def fill(values: NDArray[Any], weight: NDArray[Any], enough: float) -> Floats:
    """`values` (H, W) where their weight is well above `enough`, smoothly mixed with those around where it is not.

    Pull and push: means by weight over ever larger squares, down to one pixel, and back up.
    """
    height, width = values.shape
    if height == 1 and width == 1:
        return values.astype(np.float32)
    pad = (0, height % 2), (0, width % 2)
    weights = np.pad(weight, pad)
    sums = np.pad(values * weight, pad)
    shape = weights.shape[0] // 2, 2, weights.shape[1] // 2, 2
    mass = weights.reshape(shape).mean((1, 3))
    mean = sums.reshape(shape).mean((1, 3)) / np.maximum(mass, 1e-12)
    coarse = _twice(fill(mean, mass, enough))[:height, :width]
    share = weight / (weight + enough)
    return (share * values + (1 - share) * coarse).astype(np.float32)


def _twice(values: Floats) -> Floats:
    """(H, W) -> (2 H, 2 W), linear between the centres of pixels."""
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        before, after = np.concatenate([values[:1], values[:-1]]), np.concatenate([values[1:], values[-1:]])
        values = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], 1)
        values = np.moveaxis(values.reshape(-1, *values.shape[2:]), 0, axis)
    return values.astype(np.float32)


def relative_depth(
    values: NDArray[Any], *, disparity: bool = False, sky: bool = False, far: float = FAR_IN_FILES
) -> Floats:
    """Depth of a file, in any unit, as relative depth.

    Args:
        values: (H, W); what is not above 0 or not finite is unknown.
        disparity: the values are inverse depth.
        sky: the greatest value stands for infinity.
        far: the quantile of what is known that becomes 1; RESIDE's sets have the maximum, 1.

    Returns:
        (H, W), not negative; the unknown is filled from the surroundings, sky is infinite.

    Raises:
        ValueError: if nothing is known.
    """
    known = np.isfinite(values) & (values > 0)
    if not known.any():
        raise ValueError("all of its depth is unknown (0 or not finite)")
    infinite = known & (values == values[known].max()) if sky else np.zeros_like(known)
    known &= ~infinite
    if not known.any():
        return np.full(values.shape, np.inf, np.float32)
    positive = np.where(known, values, 1).astype(np.float64)
    depth = np.where(known, 1 / positive if disparity else positive, 0)
    depth /= np.quantile(depth[known], far)
    filled = fill(depth, known.astype(np.float64), enough=1e-6)
    return np.where(infinite, np.float32(np.inf), filled)
