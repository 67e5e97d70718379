"""The part of a picture that a sample shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .store import Pixels
from .tones import retoned

SCALES = (0.2, 1.2)  # of crops that are resampled: from a whole room in a hundred pixels to a little softer than it was
RESAMPLED = 0.7  # share of them; the others keep the picture's own pixels
RETONED = 0.5  # share of crops in another tone, of pictures that are hazed anew
ROOM = 3  # crops that the shorter side of a reduced picture still has room for


@dataclass(frozen=True)
class Window:
    """Rows top .. top + height and columns left .. left + width, shown as `rows` x `columns` pixels."""

    top: int
    left: int
    height: int
    width: int
    rows: int
    columns: int

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Top, left, bottom and right, in parts of a picture of this size."""
        bottom, right = self.top + self.height, self.left + self.width
        return self.top / height, self.left / width, bottom / height, right / width

    def part(self, array: NDArray[Any]) -> NDArray[Any]:
        """(H, W, ...) -> (height, width, ...): its pixels as they are."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]

    def shown(self, part: Pixels) -> Pixels:
        """(height, width, 3) uint8 -> (rows, columns, 3) uint8."""
        if part.shape[:2] == (self.rows, self.columns):
            return part
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(part)).resize((self.columns, self.rows), Image.Resampling.BICUBIC)
        )

    def cut(self, picture: Pixels) -> Pixels:
        """(H, W, 3) uint8 -> (rows, columns, 3) uint8."""
        return self.shown(self.part(picture))


class View(Protocol):
    """What to show of pictures, whatever their size.

    varied  whether samples of one picture may have different clear ones
    """

    varied: ClassVar[bool]

    def reduction(self, rng: np.random.Generator, height: int, width: int) -> int:
        """Integer by which to reduce a picture first."""

    def window(self, rng: np.random.Generator, height: int, width: int, *, resample: bool) -> Window:
        """The part of the picture to show, `resample`: at any scale that suits."""

    def tone(self, rng: np.random.Generator, clear: Pixels) -> Pixels:
        """A clear part in the tone in which to show it, before haze is added."""


@dataclass(frozen=True)
class Crop:
    """A random square, shown as `size` x `size` pixels.

    With `resample`, most squares are larger or smaller than `size`. A picture with a side shorter than the square
    is shown from the largest square that it has room for: enlarged, if that is smaller than `size`.
    """

    size: int
    varied: ClassVar[bool] = True

    def reduction(self, rng: np.random.Generator, height: int, width: int) -> int:
        """Any that leaves room for three crops on the shorter side: far things seen whole, and detail that is sharp."""
        return int(rng.integers(1, max(1, min(height, width) // (ROOM * self.size)) + 1))

    def window(self, rng: np.random.Generator, height: int, width: int, *, resample: bool) -> Window:
        """A square anywhere."""
        low, high = np.log(SCALES)
        scale = float(np.exp(rng.uniform(low, high))) if resample and rng.random() < RESAMPLED else 1.0
        side = min(max(1, round(self.size / scale)), height, width)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return Window(top, left, side, side, self.size, self.size)

    def tone(self, rng: np.random.Generator, clear: Pixels) -> Pixels:
        """Its own or any."""
        return retoned(clear, rng) if rng.random() < RETONED else clear


@dataclass(frozen=True)
class Whole:
    """The whole picture, reduced so that its longer side has at most `limit` pixels."""

    limit: int
    varied: ClassVar[bool] = False

    def reduction(self, rng: np.random.Generator, height: int, width: int) -> int:
        """None; what is to be reduced, the window does."""
        return 1

    def window(self, rng: np.random.Generator, height: int, width: int, *, resample: bool) -> Window:
        """All of it."""
        scale = min(1.0, self.limit / max(height, width))
        return Window(0, 0, height, width, max(1, round(height * scale)), max(1, round(width * scale)))

    def tone(self, rng: np.random.Generator, clear: Pixels) -> Pixels:
        """Its own: one clear picture serves many hazy ones."""
        return clear
