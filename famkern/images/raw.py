"""Camera RAW: rawpy (LibRaw) develops it with the camera's white balance, to sRGB of 16 bits, upright.

Many are TIFF files by their first bytes, so that here the suffix decides.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

from . import exif
from .picture import Metadata, Samples, Stored, array_bytes, fault, needs
from .tiff import DESCRIPTIVE, LINKS

SRGB = (2.4, 12.92)  # its curve: exponent, and slope at black
TURNED = (5, 6)  # LibRaw's numbers for turns by a quarter


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is developed."""
    with needs(file.name, "rawpy"):
        import rawpy

    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with rawpy.imread(file) as raw:
        if raw.raw_type not in (rawpy.RawType.Flat, rawpy.RawType.Stack):
            raise fault(file.name, "RAWs of this kind are not supported; convert it to DNG or TIFF")
        sizes = raw.sizes
    width, height = (sizes.iheight, sizes.iwidth) if sizes.flip in TURNED else (sizes.iwidth, sizes.iheight)
    dtype = np.dtype(np.uint16)

    def decode() -> Samples:
        file.seek(0)
        with rawpy.imread(file) as raw:
            return np.asarray(raw.postprocess(use_camera_wb=True, output_bps=16, gamma=SRGB))

    directories = exif.parse(file, DESCRIPTIVE | LINKS)
    described = directories and (directories.main or directories.exif or directories.gps)
    if directories:
        directories.main = {tag: value for tag, value in directories.main.items() if tag in DESCRIPTIVE}
    return Stored(
        format="RAW",
        width=width,
        height=height,
        channels=3,
        dtype=dtype,
        orientation=1,
        metadata=Metadata(exif.blob(directories) if directories and described else None),
        lossless=False,
        decode=decode,
        # LibRaw holds the sensor's samples and four channels of 16 bits; rawpy the result twice.
        decode_bytes=size
        + array_bytes(sizes.raw_width * sizes.raw_height, 5, dtype)
        + 2 * array_bytes(width * height, 3, dtype),
    )
