"""side_by_side(): before and after in one picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from . import colour
from .picture import Picture, Samples
from .reading import Header

LONG_SIDE = 4096
GAP = 8
GAP_GREY = 128


def side_by_side(before: Picture, after: Picture) -> Picture:
    """`before` on the left, `after` on the right, a thin grey gap between them.

    uint8, at most 4096 pixels on the longer side, and at most the size of the originals; alpha is flattened over white.
    Colour profile of `after`; no other metadata. Needs little memory beside the result, whatever the size of the two.

    Raises ValueError if the two are not of one size.
    """
    height, width = before.pixels.shape[:2]
    if after.pixels.shape != before.pixels.shape:
        raise ValueError(f"sizes differ: {width} x {height} and {after.pixels.shape[1]} x {after.pixels.shape[0]}")
    scale = min(1.0, (LONG_SIDE - GAP) / (2 * width), LONG_SIDE / height)
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    both = np.full((size[1], 2 * size[0] + GAP, 3), GAP_GREY, np.uint8)
    both[:, : size[0]] = _scaled(before, size)
    both[:, -size[0] :] = _scaled(after, size)
    return Picture(
        both,
        grey=before.grey and after.grey,
        format=after.format,
        metadata=type(after.metadata)(icc=after.metadata.icc),
        lossless=False,
    )


def halves(both: Samples) -> tuple[Samples, Samples]:
    """The pixels of side_by_side(), (H, 2 * W + gap, 3), as those of before and after, (H, W, 3) each."""
    width = (both.shape[1] - GAP) // 2
    return np.ascontiguousarray(both[:, :width]), np.ascontiguousarray(both[:, -width:])


def side_by_side_bytes(header: Header) -> int:
    """Upper bound, in bytes, of what making and writing this comparison as JPEG needs beside the two pictures."""
    width, height = min(2 * header.width, LONG_SIDE), min(header.height, LONG_SIDE)
    beside = replace(header, width=width, height=height, channels=3, dtype=np.dtype(np.uint8))
    return 2 * 3 * width * height + beside.write_bytes("JPEG")


def _scaled(picture: Picture, size: tuple[int, int]) -> Samples:
    """uint8 of `size` (width, height): means over blocks of whole pixels, band by band, then a little resampling."""
    height, width = picture.pixels.shape[:2]
    block = max(1, min(width // size[0], height // size[1]))
    means = np.empty((-(-height // block), -(-width // block), 3), np.uint8)
    for rows in colour.bands(height, 3 * width, multiple=block):
        band = Image.fromarray(_flat(picture, rows)).reduce(block)
        means[rows.start // block : rows.start // block + band.height] = band
    if means.shape[:2] == (size[1], size[0]):
        return means
    whole = (0, 0, width / block, height / block)  # the last means may be of fewer pixels than a block
    return np.asarray(Image.fromarray(means).resize(size, Image.Resampling.LANCZOS, box=whole))


def _flat(picture: Picture, rows: slice) -> Samples:
    """Rows as uint8, over white."""
    pixels, dtype = picture.pixels[rows], picture.pixels.dtype
    if picture.alpha is not None:
        white = colour.peak(dtype)
        opacity = (picture.alpha[rows, :, None] / white).clip(0, 1)
        pixels = white + (pixels - white) * opacity
    return colour.requantised(pixels, dtype, np.dtype(np.uint8))
