"""Where, and how much, pictures are dehazed."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import images

BAND_PIXELS = 2**18


class Mask:
    """A grey picture that weighs each pixel of the result against the input's: white the result, black the input.

    Args:
        path: the file.
        max_pixels: as for the pictures.

    Raises:
        ImageError: if it cannot be read, or has transparency.
    """

    def __init__(self, path: str | os.PathLike[str], max_pixels: int = images.MAX_PIXELS) -> None:
        self.path, self._max_pixels = path, max_pixels
        self.header = images.header(path, max_pixels=max_pixels)
        if self.header.has_alpha:
            raise images.ImageError(f"{path}: the mask has transparency; flatten it, white where to dehaze")
        self._weights: NDArray[Any] | None = None
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What it takes while it is used."""
        return self.header.width * self.header.height * self.header.dtype.itemsize

    @property
    def read_bytes(self) -> int:
        """What it takes at most while it is read."""
        return self.header.read_bytes + self.bytes

    def check(self, picture: images.Header) -> None:
        """Raise ValueError if it is not of the size of this picture."""
        size, own = (picture.width, picture.height), (self.header.width, self.header.height)
        if size != own:
            sizes = f"{own[0]} x {own[1]} pixels, but this picture has {size[0]} x {size[1]}"
            raise ValueError(f"the mask {self.path} has {sizes}; scale the mask to that")

    def apply(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Blend (H, W, 3) pixels in place: after = before + weight (after - before), integers rounded half to even."""
        weights = self.read()
        for start in range(0, len(after), rows := max(1, BAND_PIXELS // after.shape[1])):
            band = slice(start, start + rows)
            weight = weights[band, :, None].astype(np.float64)
            if weights.dtype.kind == "u":
                weight /= np.iinfo(weights.dtype).max
            mixed = (1 - weight) * before[band] + weight * after[band]
            after[band] = np.rint(mixed) if after.dtype.kind == "u" else mixed

    def read(self) -> NDArray[Any]:
        """(H, W) weights, read at the first use; an ImageError if they are damaged or have colours."""
        with self._lock:
            if self._weights is None:
                pixels = images.read(self.path, max_pixels=self._max_pixels).pixels
                if not (pixels == pixels[..., :1]).all():
                    raise images.ImageError(f"{self.path}: the mask has colours; convert it to grey")
                self._weights = np.ascontiguousarray(pixels[..., 0])
            return self._weights
