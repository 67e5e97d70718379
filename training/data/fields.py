"""Random fields over a picture, and depth made up for photographs that have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .store import Pixels

Floats = NDArray[np.float32]


def smooth(rng: np.random.Generator, rows: int, columns: int, waves: tuple[int, int] = (2, 6)) -> Floats:
    """(rows, columns) in [-1, 1]: bicubic interpolation of a few random values each way."""
    grid = rng.uniform(-1, 1, rng.integers(waves[0], waves[1] + 1, 2)).astype(np.float32)
    return resized(grid, rows, columns, Image.Resampling.BICUBIC).clip(-1, 1)


def resized(array: NDArray[Any], rows: int, columns: int, kind: Image.Resampling) -> NDArray[Any]:
    """(H, W) float32 or (H, W, 3) uint8 at another size."""
    return np.asarray(Image.fromarray(array).resize((columns, rows), kind))


def pseudo_depth(rng: np.random.Generator, clear: Pixels, top: float, bottom: float) -> Floats:
    """Relative depth, (H, W) in [0, 1], that a photograph might have; in part drawn, in part led by its colours.

    A mixture of ground that recedes to a horizon, of pieces that end where colours change, and of smooth hills, in random
    proportions and with random contrast; known at every other pixel, since nothing in a photograph has jagged edges.

    Args:
        rng: where all randomness comes from.
        clear: (H, W, 3) uint8.
        top: where its first row lies in the whole photograph: 0 is its top, 1 its bottom.
        bottom: the same for its last row.
    """
    rows, columns = clear.shape[:2]
    height, width = max(1, rows // 2), max(1, columns // 2)
    ground = _Ground(rng)
    v = np.linspace(top, bottom, height, dtype=np.float32)[:, None]
    u = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    parts: list[Callable[[], Floats]] = [
        lambda: ground(v + ground.tilt * (bottom - top) * u),
        lambda: _pieces(rng, resized(clear, height, width, Image.Resampling.BOX), top, bottom, ground),
        lambda: 0.5 + 0.5 * smooth(rng, height, width),
    ]
    shares = rng.dirichlet([0.8, 0.8, 0.4])
    depth: Floats = sum(np.float32(share) * part() for part, share in zip(parts, shares, strict=True) if share > 0.02)
    contrast, level = np.float32(rng.uniform(0.3, 1.0)), np.float32(rng.uniform(0.3, 1.0))
    return resized((level + contrast * (depth - level)).clip(0, 1), rows, columns, Image.Resampling.BILINEAR)


class _Ground:
    """Depth of a plane that recedes from the bottom of the picture to its horizon, over which all is far."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.horizon = np.float32(rng.uniform(-0.3, 0.7))
        self.near = np.float32(_log_uniform(rng, 0.05, 1))  # small: depth falls quickly
        self.tilt = np.float32(rng.uniform(-0.5, 0.5))

    def __call__(self, v: NDArray[Any]) -> Floats:
        below = np.maximum(v - self.horizon, 0)
        return (self.near / (self.near + below)).astype(np.float32)


def _pieces(rng: np.random.Generator, clear: Pixels, top: float, bottom: float, ground: _Ground) -> Floats:
    """Depth that is nearly constant over pieces: each pixel takes that of the nearest of a few sites.

    Near is meant in place and in colour, in random proportion, so that pieces end where the picture's own do; the plane is
    warped, for nothing in a photograph ends in straight lines but what man has made. A site has the depth of the ground it
    may stand on, or any; a pixel about as near to several shares theirs.
    """
    height, width = clear.shape[:2]
    blurred = Image.fromarray(clear).filter(ImageFilter.BoxBlur(1))  # the texture of things makes no pieces
    small = np.asarray(blurred).astype(np.float32)
    small -= small.mean((0, 1))
    count, scale = int(rng.integers(4, 13)), max(height, width)
    # Coordinates vary by about 0.3, and so do colours at a proportion of 0.3.
    colours = _log_uniform(rng, 0.1, 0.6) / max(float(small.std()), 8.0)
    warp = np.float32(rng.uniform(0, 0.2))
    features = np.empty((5, height, width), np.float32)
    features[0] = np.arange(height, dtype=np.float32)[:, None] / scale + warp * smooth(rng, height, width)
    features[1] = np.arange(width, dtype=np.float32)[None] / scale + warp * smooth(rng, height, width)
    features[2:] = small.transpose(2, 0, 1) * np.float32(colours)
    at = rng.integers(0, height, count), rng.integers(0, width, count)
    foot = top + (bottom - top) * (at[0] / height + rng.uniform(0, 0.3, count))
    depths = np.where(rng.random(count) < 0.5, ground(foot), rng.random(count)).astype(np.float32)
    sites = features[:, at[0], at[1]].T  # (count, 5)
    distance = (sites**2).sum(1, keepdims=True) - 2 * sites @ features.reshape(5, -1)  # squared, less what all share
    share = np.exp(np.float32(_log_uniform(rng, 20, 300)) * (distance.min(0) - distance))  # (count, pixels)
    return ((depths @ share) / share.sum(0)).reshape(height, width)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
