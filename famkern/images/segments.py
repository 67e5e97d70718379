"""Segments: the strips or tiles of a page of a TIFF, of which so many rows are decoded at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import tifffile

from .picture import Samples, array_bytes

# Bytes of compressed strips or tiles, and of decoded rows, to hold at once; threads that decode or encode them.
BUFFER_BYTES = 2**22
THREADS = min(4, os.cpu_count() or 1)

PLANAR = 2
JPEG_TABLES = {6, 7, 34892, 33007}  # compressions whose segments share tables


class Segments:
    """The rows of a page.

    step    rows that `blocks` decodes at a time
    bytes   upper bound of what `read` needs for so many rows at its peak, its result included
    """

    def __init__(self, page: tifffile.TiffPage) -> None:
        self._page = page
        self._size = page.imagelength, page.imagewidth
        planar = page.planarconfig == PLANAR and page.samplesperpixel > 1
        self._planes, self._samples = (page.samplesperpixel, 1) if planar else (1, page.samplesperpixel)
        # Rows that lie in the file as they are can be read one by one, however many make a strip.
        self._plain = page.is_contiguous and page.predictor == 1 and page.fillorder == 1
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self._size[1])
        self._rows = max(1, height)
        self._down, self._across = -(-self._size[0] // self._rows), -(-self._size[1] // width)
        itemsize = np.dtype(page.dtype or np.uint8).itemsize
        row_bytes = self._size[1] * page.samplesperpixel * itemsize
        unit = 1 if self._plain else min(self._rows, self._size[0])
        self.step = min(unit * max(1, BUFFER_BYTES // (unit * row_bytes)), self._size[0])
        segment = array_bytes(height * width, self._samples, page.dtype or np.uint8)
        self._threads = 1 if segment > BUFFER_BYTES else THREADS
        # A buffer full of segments is read and cut apart; each is decoded, and unpredicted, into a new array.
        longest = max(page.databytecounts, default=0)
        stored = sum(page.databytecounts)
        read = longest if len(page.databytecounts) == 1 else 2 * min(stored, BUFFER_BYTES + longest)
        in_flight = self.step * row_bytes if self._plain else read + 2 * self._threads * segment
        self.bytes = self.step * row_bytes + in_flight

    def blocks(self) -> Iterator[tuple[slice, Samples]]:
        """All rows from the first to the last, see `read`."""
        for start in range(0, self._size[0], self.step):
            rows = slice(start, min(start + self.step, self._size[0]))
            yield rows, self.read(rows)

    def read(self, rows: slice) -> Samples:
        """(rows, W) or (rows, W, S), as they are stored, in this machine's byte order."""
        planes = self._read_plain(rows) if self._plain else self._decode(rows)
        if self._planes > 1:
            return np.moveaxis(planes[..., 0], 0, -1)
        return planes[0] if self._samples > 1 else planes[0, ..., 0]

    def _read_plain(self, rows: slice) -> Samples:
        """(planes, rows, W, samples)."""
        page, file = self._page, self._page.parent.filehandle
        row, count = self._size[1] * self._samples, rows.stop - rows.start
        dtype = np.dtype(page.dtype)
        planes = np.empty((self._planes, count, self._size[1], self._samples), dtype)
        for plane in range(self._planes):
            file.seek(page.dataoffsets[0] + (plane * self._size[0] + rows.start) * row * planes.itemsize)
            stored = file.read_array(dtype.newbyteorder(page.parent.byteorder), count * row)
            planes[plane] = stored.reshape(planes.shape[1:])
        return planes

    def _decode(self, rows: slice) -> Samples:
        """(planes, rows, W, samples)."""
        page, file = self._page, self._page.parent.filehandle
        first, end = rows.start // self._rows, -(-rows.stop // self._rows)
        top, bottom = first * self._rows, min(end * self._rows, self._size[0])
        planes = np.empty((self._planes, bottom - top, self._size[1], self._samples), page.dtype)
        indices = [
            (plane * self._down + down) * self._across + across
            for plane in range(self._planes)
            for down in range(first, end)
            for across in range(self._across)
        ]
        tables: dict[str, Any] = {}
        if page.compression in JPEG_TABLES:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        decode = page.decode

        def place(found: Any) -> None:
            data, index = found
            segment, (plane, _, y, x, _), (_, height, width, _) = decode(data, index, **tables)
            part = planes[plane, y - top : y - top + height, x : x + width]
            part[...] = page.nodata if segment is None else segment[0, : part.shape[0], : part.shape[1]]

        with ThreadPoolExecutor(self._threads) if self._threads > 1 else nullcontext() as pool:
            for found in file.read_segments(
                [page.dataoffsets[index] for index in indices],
                [page.databytecounts[index] for index in indices],
                indices,
                buffersize=BUFFER_BYTES,
                flat=False,
            ):
                for _ in (pool.map if pool else map)(place, found):
                    pass
        return planes[:, rows.start - top : rows.stop - top]
