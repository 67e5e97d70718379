"""Decoded pictures, kept as long as there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from famkern import images

Pixels = NDArray[np.uint8]  # (H, W, 3)


class Store:
    """Arrays made when first asked for; the one unused for longest goes when they exceed `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._arrays: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._sizes: dict[Path, tuple[int, int]] = {}

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of this key; `make` it if it is not here."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
            return self._arrays[key]
        array = make()
        self._arrays[key] = array
        self.held += array.nbytes
        while self.held > self.limit and len(self._arrays) > 1:
            self.held -= self._arrays.popitem(last=False)[1].nbytes
        return array

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of a picture in a file, which is not decoded for it."""
        if path not in self._sizes:
            header = images.header(path)
            self._sizes[path] = header.height, header.width
        return self._sizes[path]

    def picture(self, path: Path, reduction: int = 1) -> Pixels:
        """(H, W, 3) uint8: a picture, each pixel the mean of `reduction` x `reduction` of its own.

        Raises ImageError (a ValueError) for a file that cannot be read.
        """
        if reduction == 1:
            return self.get((path, 1), lambda: read(path))
        return self.get((path, reduction), lambda: np.asarray(Image.fromarray(self.picture(path)).reduce(reduction)))


def read(path: Path) -> Pixels:
    """(H, W, 3) uint8 of a picture of any depth; its transparency does not count."""
    pixels = images.read(path).pixels
    if pixels.dtype == np.uint8:
        return pixels
    peak = 65535 if pixels.dtype == np.uint16 else 1
    return np.rint(pixels * np.float32(255 / peak)).astype(np.uint8)


def read_depth(path: Path) -> NDArray[Any]:
    """(H, W): the first channel of a picture, or a NumPy file's first array."""
    if path.suffix.lower() not in {".npy", ".npz"}:
        return images.read(path).pixels[..., 0]
    try:
        loaded = np.load(path)
        values: NDArray[Any] = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get another copy of the file") from error
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{path}: an array of shape {values.shape}; save depth as (H, W)")
    return values
