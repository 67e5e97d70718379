"""Pixels that hold no data: outside an orthophoto, below full transparency.

They are not the network's business: before it runs they are filled with the mean of what is valid around them, so that
they neither take part in its means with values of their own nor make an edge; afterwards they are what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .colour import bands, luma, requantised
from .picture import Depth, Empty, Picture, Samples
from .reading import Header

Map = NDArray[Any]


def gaps_bytes(header: Header) -> int:
    """Upper bound of what a Gaps takes beside its picture: what it keeps, and the smaller pictures to fill from."""
    return header.width * header.height * (14 + 3 * header.dtype.itemsize) if header.gaps else 0


class Gaps:
    """The pixels of a picture that hold no data: those that are not valid, and those of alpha 0.

    picture     whose pixels `fill` and `restore` will get, or others of its size and dtype
    empty       makes the arrays that are kept with it, see `read`

    valid       (H, W): the pixels that hold data
    """

    def __init__(self, picture: Picture, empty: Empty = np.empty) -> None:
        self._nodata, self._grey, self._empty = picture.nodata, picture.grey, empty
        height, width, _ = picture.pixels.shape
        self.valid: Map = empty((height, width), bool)
        self._count = 0
        for rows in bands(height, 3 * width):
            valid = np.ones((rows.stop - rows.start, width), bool) if picture.valid is None else picture.valid[rows]
            if picture.alpha is not None:
                valid = valid & (picture.alpha[rows] != 0)
            self.valid[rows] = valid
            self._count += valid.size - np.count_nonzero(valid)
        self._kept: Map = empty((self._count, 3), picture.pixels.dtype)
        for rows, missing, place in self._missing(3 * width):
            self._kept[place] = picture.pixels[rows][missing]

    def _missing(self, samples_per_row: int, multiple: int = 1) -> Iterator[tuple[slice, Map, slice]]:
        """Bands of rows, which of their pixels are missing, and where these are kept."""
        first = 0
        for rows in bands(len(self.valid), samples_per_row, multiple):
            missing = ~self.valid[rows]
            last = first + np.count_nonzero(missing)
            yield rows, missing, slice(first, last)
            first = last

    def fill(self, pixels: Samples) -> None:
        """Fill them in place: each with the mean of the smallest block of 2^n x 2^n pixels around it that has data."""
        height, width, _ = pixels.shape
        if self._count in (0, height * width):
            return
        half = (-(-height // 2), -(-width // 2))
        means: Map = self._empty((*half, 3), np.float32)
        count: Map = self._empty(half, np.float32)
        for rows, missing, _ in self._missing(3 * width, multiple=2):
            values = np.where(missing[..., None], 0, pixels[rows]).astype(np.float32)
            part = slice(rows.start // 2, -(-rows.stop // 2))
            means[part], count[part] = _in_twos(values), _in_twos((~missing).astype(np.float32))
        _take_means(means, count, self._empty)
        for rows, missing, _ in self._missing(3 * width, multiple=2):
            y, x = np.nonzero(missing)
            band, near = pixels[rows], means[rows.start // 2 : -(-rows.stop // 2)]
            values = near[y // 2, x // 2]
            band[y, x] = np.rint(values) if band.dtype.kind == "u" else values
            pixels[rows] = band

    def restore(self, pixels: Samples) -> None:
        """Set them back in place to what they were; others do not take the value that means no data."""
        other = self._beside_nodata(pixels.dtype)
        for rows, missing, place in self._missing(3 * pixels.shape[1]):
            band = pixels[rows]
            if other is not None:
                written = requantised(luma(band)[..., None], band.dtype, band.dtype) if self._grey else band
                band[(written == band.dtype.type(self._nodata)).all(-1)] = other
            band[missing] = self._kept[place]
            pixels[rows] = band

    def _beside_nodata(self, dtype: Depth) -> Any:
        """The number next to the one that means no data; None where pixels cannot have that."""
        white = np.iinfo(dtype).max if dtype.kind == "u" else 1  # type: ignore[type-var]
        if self._nodata is None or not 0 <= self._nodata <= white:  # nor is one that is no number
            return None
        if dtype.kind == "u":
            return int(self._nodata) + (1 if self._nodata < white else -1)
        return np.nextafter(dtype.type(self._nodata), dtype.type(0.5))


def _in_twos(values: Map) -> Map:
    """Sums over blocks of 2 x 2, fewer at the edges."""
    height, width = values.shape[:2]
    return np.add.reduceat(np.add.reduceat(values, range(0, height, 2), 0), range(0, width, 2), 1)


def _take_means(total: Map, count: Map, empty: Empty) -> None:
    """In place: (h, w, 3) sums of (h, w) pixels become their means, and where there are none, those of a coarser level."""
    height, width = count.shape
    half = (-(-height // 2), -(-width // 2))
    steps = list(bands(height, 3 * width, multiple=2))
    coarse: Map | None = None
    if any((count[rows] == 0).any() for rows in steps):
        coarse = empty((*half, 3), np.float32)
        coarse_count: Map = empty(half, np.float32)
        for rows in steps:
            part = slice(rows.start // 2, -(-rows.stop // 2))
            coarse[part], coarse_count[part] = _in_twos(total[rows]), _in_twos(count[rows])
        _take_means(coarse, coarse_count, empty)
    for rows in steps:
        number = count[rows]
        means = total[rows] / np.maximum(number, 1)[..., None]
        if coarse is not None:
            y, x = np.nonzero(number == 0)
            means[y, x] = coarse[rows.start // 2 : -(-rows.stop // 2)][y // 2, x // 2]
        total[rows] = means
