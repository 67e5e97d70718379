"""The haze model: I = J t + A (1 - t) with transmission t = exp(-beta d).

J clear, I hazy, A airlight, d relative depth, beta the density: optical thickness at d = 1, in green light. Small particles
scatter blue more than red: beta is as the wavelength to the power of -alpha, the Angstrom exponent; 0 for large drops.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import fields
from .store import Pixels

Floats = NDArray[np.float32]
Range = tuple[float, float]

# Wavelengths that the red, green and blue of a camera see most of, beside green's.
WAVELENGTHS = np.array([610, 540, 465], np.float32) / 540


@dataclass(frozen=True)
class Haze:
    """Ranges from which the haze of a sample is drawn, each uniformly.

    beta        density, for relative depth that reaches about 1
    airlight    brightness of the airlight, in [0, 1]
    white       probability that the airlight is 1 in all channels instead
    tint        largest deviation of a channel of the airlight from its brightness
    none        probability that there is no haze, so that a clear picture is learnt to stay as it is
    thin        probability that beta is drawn from below its range
    uneven      probability that the density varies over the picture, by up to UNEVEN
    sky         relative depth of what lies at infinity
    angstrom    Angstrom exponent of the density, by which far things turn blue before they turn grey
    overcast    probability that a photograph is shown under a sky as grey as the airlight, which is to stay as it is
    objects     probability that thin things stand near, before a photograph
    foreign     probability that known or estimated depth is that of another picture of its source: haze that the picture
                says nothing of must be told by itself
    noisy       probability of noise as from a sensor
    noise       its standard deviation, in levels of 255
    grain       side of its grains in pixels: more than 1 where a picture was denoised or enlarged
    jpeg        probability of compression as JPEG
    quality     of that
    """

    beta: Range
    airlight: Range
    white: float
    tint: float
    none: float = 0.05
    thin: float = 0.1
    uneven: float = 0.0
    sky: Range = (1.2, 6.0)
    angstrom: Range = (0.0, 0.0)
    overcast: float = 0.0
    objects: float = 0.0
    foreign: float = 0.0
    noisy: float = 0.0
    noise: Range = (0.3, 3.0)
    grain: Range = (1.0, 1.0)
    jpeg: float = 0.0
    quality: Range = (60, 95)

    def __post_init__(self) -> None:
        for name in ("beta", "airlight", "sky", "angstrom", "noise", "grain", "quality"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is ({low}, {high}); a range of numbers from 0 up expected")
        if self.grain[0] == 0:
            raise ValueError(f"grain is {self.grain}; pixels of more than 0 expected")
        for name in ("white", "none", "thin", "uneven", "overcast", "objects", "foreign", "noisy", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability expected")

    @classmethod
    def indoor(cls) -> Haze:
        """The haze of RESIDE's indoor sets: grey or white, from light to very dense."""
        return cls(beta=(0.4, 1.9), airlight=(0.7, 1.0), white=0.85, tint=0.0, none=0.02, thin=0.03)

    @classmethod
    def reside(cls) -> Haze:
        """The haze of RESIDE's ITS, for depth whose maximum is 1: density 0.6 to 1.8, grey airlight from 0.7.

        White airlight is drawn more often than there: all of the indoor test set, SOTS, has it.
        """
        return cls(beta=(0.6, 1.8), airlight=(0.7, 1.0), white=0.7, tint=0.0, none=0.01, thin=0.02)

    @classmethod
    def outdoor(cls) -> Haze:
        """Haze as in photographs: slightly coloured, uneven, with a camera's noise and compression."""
        return cls(
            beta=(0.2, 2.5),
            airlight=(0.6, 1.0),
            angstrom=(0, 1.5),
            grain=(0.5, 5),
            white=0.15,
            tint=0.04,
            uneven=0.4,
            overcast=0.4,
            objects=0.25,
            foreign=0.1,
            noisy=0.8,
            jpeg=0.5,
        )

    def add(
        self, clear: Pixels, depth: Floats, rng: np.random.Generator, airlight: Floats | None = None
    ) -> tuple[Pixels, Floats]:
        """Draw a haze and put it into a picture.

        Args:
            clear: (H, W, 3) uint8.
            depth: (H, W) relative depth, not negative; infinite for sky.
            rng: where all randomness comes from.
            airlight: (3,) in [0, 1], if it is not to be drawn.

        Returns:
            The hazy picture, (H, W, 3) uint8, and its transmission in green, (H, W) in [0, 1].
        """
        density = self._density(rng)
        airlight = self._airlight(rng) if airlight is None else airlight
        thickness = density * np.where(np.isinf(depth), np.float32(rng.uniform(*self.sky)), depth)
        if rng.random() < self.uneven:
            thickness *= 1 + np.float32(UNEVEN * rng.random()) * fields.smooth(rng, *depth.shape)
        scattered = WAVELENGTHS ** -np.float32(rng.uniform(*self.angstrom))
        t = np.exp(-thickness[..., None] * scattered)
        picture = self._noise(rng, hazy(clear.astype(np.float32), t, 255 * airlight))
        return self._compress(rng, np.rint(picture).clip(0, 255).astype(np.uint8)), t[..., 1]

    def _density(self, rng: np.random.Generator) -> np.float32:
        kind = rng.random()
        if kind < self.none:
            return np.float32(0)
        if kind < self.none + self.thin:
            return np.float32(rng.uniform(0, self.beta[0]))
        return np.float32(rng.uniform(*self.beta))

    def _airlight(self, rng: np.random.Generator) -> Floats:
        if rng.random() < self.white:
            return np.ones(3, np.float32)
        brightness = rng.uniform(*self.airlight)
        # From bluish through grey to yellowish, as light is through air and dust; green and magenta haze is rare.
        warmth, green = rng.uniform(-1, 1), rng.uniform(-0.25, 0.25)
        colour = brightness + self.tint * np.array([warmth, green, -warmth])
        return colour.clip(0, 1).astype(np.float32)

    def _noise(self, rng: np.random.Generator, picture: Floats) -> Floats:
        if rng.random() < self.noisy:
            sigma, (rows, columns) = np.float32(rng.uniform(*self.noise)), picture.shape[:2]
            grain = max(1.0, float(np.exp(rng.uniform(*np.log(self.grain)))))
            # Sensors' noise is alike in all channels or not, by what has been done to the colours since.
            common = np.float32(rng.uniform(0, 1) if grain > 1 else 0)
            grid = rng.standard_normal((4, math.ceil(rows / grain), math.ceil(columns / grain)), np.float32)
            grid = np.sqrt(1 - common) * grid[:3] + np.sqrt(common) * grid[3]
            if grain > 1:
                grid = np.stack([fields.resized(g, rows, columns, Image.Resampling.BICUBIC) for g in grid])
                grid /= np.sqrt(np.square(grid).mean())  # interpolation takes some of it away
            picture = picture + sigma * grid.transpose(1, 2, 0)
        return picture

    def _compress(self, rng: np.random.Generator, picture: Pixels) -> Pixels:
        if rng.random() >= self.jpeg:
            return picture
        # JPEG works in blocks of 8 (16 for halved colour) from the top left corner: shift it, for a crop may lie anywhere.
        top, left = (int(offset) for offset in rng.integers(0, 16, 2))
        quality, halved = round(rng.uniform(*self.quality)), rng.random() < 0.7
        shifted = np.pad(picture, ((top, 0), (left, 0), (0, 0)), "edge")
        return jpeg(shifted, quality, halved)[top:, left:]


UNEVEN = 0.6  # largest relative deviation from the mean density


def hazy(clear: NDArray[Any], transmission: NDArray[Any], airlight: NDArray[Any]) -> NDArray[Any]:
    """I = J t + A (1 - t).

    Args:
        clear: (H, W, 3): J.
        transmission: (H, W, 3), or (H, W, 1) for all channels, in [0, 1]: t.
        airlight: (3,): A, in the unit of J.
    """
    return airlight + (clear - airlight) * transmission


def jpeg(picture: Pixels, quality: int, halved: bool) -> Pixels:
    """A picture as it comes out of a JPEG file; `halved`: colour at half the resolution (4:2:0)."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2 if halved else 0)
    return np.asarray(Image.open(file))
