"""Single image haze removal using the dark channel prior (He, Sun and Tang, PAMI 2011), on OpenCV's filters.

    dark(I) = least channel of I, then least over a square             of haze-free outdoor pictures near 0
    A       = mean colour of the haziest pixels, those of the greatest dark channel
    t       = 1 - 0.95 dark(I / A), then smoothed by a guided filter with the picture as its guide
    J       = (I - A) / max(t, 0.1) + A

The classical choice that a user without a network would make; a point of comparison.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

PATCH = 15  # pixels
KEPT = 0.95  # share of the haze that is removed: some is left for depth
HAZIEST = 0.001  # share of pixels
LEAST_T = 0.1
RADIUS, EPSILON = 60, 1e-4  # of the guided filter, for pictures of 600 x 400 as in the paper

Floats = NDArray[np.float32]


def dehaze(image: Floats) -> Floats:
    """(H, W, 3) RGB in [0, 1] -> the same."""
    image = np.ascontiguousarray(image, np.float32)
    dark = _dark(image)
    count = max(1, round(HAZIEST * dark.size))
    airlight = image.reshape(-1, 3)[np.argpartition(dark.ravel(), -count)[-count:]].mean(0)
    t = 1 - KEPT * _dark(image / np.maximum(airlight, 1e-6))
    t = _guided(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), t)
    return ((image - airlight) / np.maximum(t, LEAST_T)[..., None] + airlight).clip(0, 1).astype(np.float32)


def _dark(image: Floats) -> Floats:
    return cv2.erode(image.min(2), np.ones((PATCH, PATCH), np.uint8))


def _guided(guide: Floats, values: Floats) -> Floats:
    """A guided filter (He, Sun and Tang, PAMI 2013): values = a guide + b in every window, a and b averaged."""

    def mean(x: Floats) -> Floats:
        return cv2.blur(x, (2 * RADIUS + 1, 2 * RADIUS + 1), borderType=cv2.BORDER_REFLECT)

    of_guide, of_values = mean(guide), mean(values)
    a = (mean(guide * values) - of_guide * of_values) / (mean(guide * guide) - of_guide * of_guide + EPSILON)
    return mean(a) * guide + mean(of_values - a * of_guide)
