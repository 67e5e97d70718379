"""Other exposures, contrasts and colours of a picture: more rooms and more lights than there are photographs of."""

from __future__ import annotations

import numpy as np

from .store import Pixels

GAMMA = 0.4  # largest logarithm of the exponent, either way
EXPOSURE = (-0.3, 0.2)  # logarithm of the factor on all channels
BALANCE = 0.12  # standard deviation of the logarithm of the factor on one channel
SATURATION = (-0.6, 0.4)  # logarithm of the factor on the distance from grey


def retoned(clear: Pixels, rng: np.random.Generator) -> Pixels:
    """A picture (H, W, 3) uint8 in another tone: gamma, exposure, white balance and saturation drawn at random."""
    gamma, exposure = np.exp(rng.uniform(-GAMMA, GAMMA)), np.exp(rng.uniform(*EXPOSURE))
    balance = np.exp(rng.normal(0, BALANCE, 3)).astype(np.float32)
    saturation = np.float32(np.exp(rng.uniform(*SATURATION)))
    curve = (exposure * np.linspace(0, 1, 256) ** gamma).astype(np.float32)
    toned = curve[clear] * balance
    grey = toned.mean(axis=-1, keepdims=True)
    return np.rint(255 * (grey + saturation * (toned - grey)).clip(0, 1)).astype(np.uint8)
