"""Thin things that stand near, before what is far: masts, wires, branches, figures.

Depth that is made up for a photograph follows its colours in large pieces. What is thin and near, such as a ship's mast
before a hill in haze, is then never met, and a network learns to see haze around it that is not there: a halo.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from . import fields
from .store import Pixels

Floats = NDArray[np.float32]

COUNT = (1, 6)  # of things in a crop
FINE = 2  # drawn at so many times the size, for soft edges
WIDTH = (0.5, 6.0)  # pixels
BENDS = (1, 4)  # stretches of a line
DARK = 0.7  # share of things that are dark, as most are before a bright haze
NEAR = 0.3  # of the depth around them, at most


def draw(rng: np.random.Generator, clear: Pixels, depth: Floats) -> tuple[Pixels, Floats]:
    """A part of a photograph, (H, W, 3) uint8, and its relative depth (H, W), with a few things before it."""
    rows, columns = depth.shape
    for _ in range(rng.integers(COUNT[0], COUNT[1] + 1)):
        cover = _line(rng, rows, columns)
        brightness = rng.uniform(0, 0.25) if rng.random() < DARK else rng.uniform(0, 1)
        colour = (brightness + rng.normal(0, 0.04, 3)).clip(0, 1).astype(np.float32)
        uneven = 1 + np.float32(0.3) * fields.smooth(rng, rows, columns, waves=(2, 12))
        thing = (255 * colour * uneven[..., None]).clip(0, 255)
        clear = np.rint(clear + cover[..., None] * (thing - clear.astype(np.float32))).astype(np.uint8)
        depth = depth * (1 - cover * np.float32(1 - rng.uniform(0, NEAR)))
    return clear, depth.astype(np.float32)


def _line(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """How much of each pixel a bent line covers, upright more often than not, (rows, columns) in [0, 1]."""
    picture = Image.new("L", (columns * FINE, rows * FINE))
    pen, length = ImageDraw.Draw(picture), rng.uniform(0.2, 1.2) * rows
    x, y = rng.uniform(0, columns), rng.uniform(-0.2, 1) * rows
    width = math.exp(rng.uniform(*np.log(WIDTH)))
    direction = rng.normal(math.pi / 2, 0.1) if rng.random() < 0.6 else rng.uniform(0, math.pi)
    stretches = int(rng.integers(BENDS[0], BENDS[1] + 1))
    for _ in range(stretches):
        ahead = length / stretches
        next_x, next_y = x + ahead * math.cos(direction), y + ahead * math.sin(direction)
        ends = [(x * FINE, y * FINE), (next_x * FINE, next_y * FINE)]
        pen.line(ends, fill=255, width=max(1, round(width * FINE)))
        x, y, direction = next_x, next_y, direction + rng.normal(0, 0.25)
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BOX)).astype(np.float32) / np.float32(255)
