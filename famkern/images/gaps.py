"""Pixels that hold no data: outside an orthophoto, below full transparency.

They are not the network's business: before it runs they are filled with the mean of what is valid around them, so that
they neither take part in its means with values of their own nor make an edge; afterwards they are what they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .colour import bands, luma, requantised
from .picture import Picture, Samples
from .reading import Header

Map = NDArray[Any]


def gaps_bytes(header: Header) -> int:
    """Upper bound of what a Gaps takes beside its picture: what it keeps, and the smaller pictures to fill from."""
    return header.width * header.height * (14 + 3 * header.dtype.itemsize) if header.gaps else 0


class Gaps:
    """The pixels of a picture that hold no data: those that are not valid, and those of alpha 0."""

    def __init__(self, picture: Picture) -> None:
        missing = np.zeros(picture.pixels.shape[:2], bool) if picture.valid is None else ~picture.valid
        if picture.alpha is not None:
            missing |= picture.alpha == 0
        self._missing = missing
        self._nodata, self._grey = picture.nodata, picture.grey
        self._kept = picture.pixels[missing]  # (N, 3)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W): the pixels that hold data."""
        return ~self._missing

    def fill(self, pixels: Samples) -> None:
        """Fill them in place: each with the mean of the smallest block of 2^n x 2^n pixels around it that has data."""
        if not len(self._kept) or self._missing.all():
            return
        height, width, _ = pixels.shape
        half = (-(-height // 2), -(-width // 2))
        total, count = np.empty((*half, 3), np.float32), np.empty(half, np.float32)
        for rows in bands(height, 3 * width, multiple=2):
            valid = ~self._missing[rows]
            values = np.where(valid[..., None], pixels[rows], 0).astype(np.float32)
            part = slice(rows.start // 2, -(-rows.stop // 2))
            total[part], count[part] = _in_twos(values), _in_twos(valid.astype(np.float32))
        means = _filled(total, count)
        for rows in bands(height, 3 * width, multiple=2):
            y, x = np.nonzero(self._missing[rows])
            values = means[(rows.start + y) // 2, x // 2]
            pixels[rows][y, x] = np.rint(values) if pixels.dtype.kind == "u" else values

    def restore(self, pixels: Samples) -> None:
        """Set them back in place to what they were; others do not take the value that means no data."""
        pixels[self._missing] = self._kept
        if self._nodata is None or not np.isfinite(self._nodata):
            return
        integers = pixels.dtype.kind == "u"
        white = np.iinfo(pixels.dtype).max if integers else 1
        if not 0 <= self._nodata <= white:
            return
        value = pixels.dtype.type(self._nodata)
        if integers:
            other = int(value) + 1 if value < white else int(value) - 1
        else:
            other = np.nextafter(value, pixels.dtype.type(0.5))
        for rows in bands(len(pixels), pixels.shape[1] * 3):
            written = (
                requantised(luma(pixels[rows])[..., None], pixels.dtype, pixels.dtype) if self._grey else pixels[rows]
            )
            same = (written == value).all(-1) & ~self._missing[rows]
            pixels[rows][same] = other


def _in_twos(values: Map) -> Map:
    """Sums over blocks of 2 x 2, fewer at the edges."""
    height, width = values.shape[:2]
    return np.add.reduceat(np.add.reduceat(values, range(0, height, 2), 0), range(0, width, 2), 1)


def _filled(total: Map, count: Map) -> Map:
    """(h, w, 3) means total / count, and where there are none, those of a coarser level."""
    means = total / np.maximum(count, 1)[..., None]
    y, x = np.nonzero(count == 0)
    if len(y):
        means[y, x] = _filled(_in_twos(total), _in_twos(count))[y // 2, x // 2]
    return means
