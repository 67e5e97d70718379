"""BMP: Pillow reads and writes."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin

from . import pillow
from .colour import bands
from .picture import Depth, Metadata, Samples, Stored, Unfit, fault

MAX_BYTES = 2**32 - 1  # of a file, whose size the header states in 32 bits

# How Pillow holds what it read, and as what it is taken.
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # The class itself, not Image.open: that would check, and warn of, a limit on pixels which is set for the process.
    image = BmpImagePlugin.BmpImageFile(file)
    if image.mode not in MODES:
        raise fault(file.name, f"BMPs of kind {image.mode} are not supported; convert it to PNG")
    width, height = image.size
    # Arguments: raw mode, bytes a row, direction. Run-length coded BMPs have others, and may leave pixels out.
    _, _, offset, arguments = image.tile[0]
    row_bytes = arguments[1] if isinstance(arguments, tuple) and isinstance(arguments[1], int) else 0
    dpi = image.info.get("dpi")
    mode = MODES[image.mode]
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]

    def decode() -> Samples:
        image.load()
        samples = np.empty((height, width, channels), np.uint8)
        for rows in bands(height, channels * width):
            # NumPy receives Pillow's pixels as bytes, a second and a third copy: a band at a time they are small, and
            # far below the limit on pixels that crop() checks.
            band = image.crop((0, rows.start, width, rows.stop)).convert(mode)
            samples[rows] = np.asarray(band).reshape(-1, width, channels)
        image.close()  # frees Pillow's copy
        return samples[..., 0] if channels == 1 else samples

    return Stored(
        format="BMP",
        width=width,
        height=height,
        channels=channels,
        dtype=np.dtype(np.uint8),
        orientation=1,
        metadata=Metadata(dpi=dpi if dpi and all(dpi) else None),
        lossless=True,
        decode=decode,
        decode_bytes=size // 8 + width * height * (4 + channels),
        least_bytes=offset + row_bytes * height - 3 if row_bytes else 0,  # some writers forget the last padding bytes
    )


def encode(file: BinaryIO, samples: Samples, metadata: Metadata) -> None:
    """Write (H, W) or (H, W, 3) uint8 `samples`."""
    if samples.nbytes + 4 * samples.shape[0] + 2048 > MAX_BYTES:
        raise Unfit("BMP files end at 4 GiB; write PNG or TIFF instead")
    pillow.save(samples, file, "BMP", dpi=metadata.dpi or (0, 0))


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """Pillow holds RGB in four bytes a pixel, and maps grey where it is."""
    return pixels * 4 if channels == 3 else 0
