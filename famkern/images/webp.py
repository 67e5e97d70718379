"""WebP: imagecodecs (libwebp) decodes, Pillow (libwebp) encodes with the metadata.

    "RIFF" size "WEBP" | chunk ...        a chunk is: name (4 bytes), length (4), contents, padded to an even length

This file finds the chunks, because Pillow's reader decodes through an animation canvas at several times the memory and
applies its own limit on pixels.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import imagecodecs
import numpy as np

from . import exif, pillow
from .picture import Depth, Metadata, Samples, Stored, content, fault

MAX_SIDE = 16383  # the format's

ANIMATION_FLAG, ALPHA_FLAG = 0x02, 0x10


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    chunks = _chunks(file)
    extended, lossless, lossy = (chunks.get(name) for name in (b"VP8X", b"VP8L", b"VP8 "))
    if (extended and extended[0] & ANIMATION_FLAG) or b"ANIM" in chunks:
        raise fault(file.name, "animated WebPs are not supported; save one frame as an image of its own")
    if lossless:
        (bits,) = struct.unpack("<I", lossless[1:5])
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    elif lossy:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", lossy[6:10]))
        alpha = bool(extended and extended[0] & ALPHA_FLAG)
    else:
        raise fault(file.name, "the WebP file holds no picture; get another copy of it")
    channels = 4 if alpha else 3
    exif_blob = exif.unmarked(chunks.get(b"EXIF"))
    directories = exif.parse_block(exif_blob)
    return Stored(
        format="WEBP",
        width=width,
        height=height,
        channels=channels,
        dtype=np.dtype(np.uint8),
        orientation=exif.orientation(directories),
        metadata=Metadata(
            exif_blob,
            chunks.get(b"ICCP"),
            chunks.get(b"XMP "),
            dpi=exif.resolution(directories),
        ),
        lossless=bool(lossless),
        decode=lambda: imagecodecs.webp_decode(content(file), hasalpha=alpha),
        # libwebp decodes lossless pictures and alpha planes whole, in four bytes a pixel, and the rest row by row.
        decode_bytes=file.seek(0, io.SEEK_END) + width * height * (channels + (4 if lossless or alpha else 0)),
    )


def _chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """The contents of each chunk; of the pixels', which come first, only the header."""
    size = file.seek(0, io.SEEK_END)
    file.seek(4)
    end = 8 + struct.unpack("<I", file.read(4))[0]
    place, found = 12, dict[bytes, bytes]()
    while place + 8 <= min(end, size):
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if place + 8 + length <= size:
            contents = file.read(16 if name in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF") else length)
            found.setdefault(name, contents)
        place += 8 + length + length % 2
    if max(end, place) > size + 1:  # some writers forget the last padding byte
        raise fault(file.name, "the WebP file is cut off; get another copy of it")
    return found


def encode(file: BinaryIO, samples: Samples, metadata: Metadata, *, quality: int, lossless: bool) -> None:
    """Write (H, W, 3 or 4) uint8 `samples`. Alpha is kept exactly in either case."""
    # Lossless: `quality` is effort; more than this takes several times as long for a few percent. `exact` keeps the
    # colours below transparent pixels.
    settings = {"lossless": True, "quality": 20, "method": 1, "exact": True} if lossless else {"quality": quality}
    pillow.save(
        samples,
        file,
        "WEBP",
        exif=metadata.exif or b"",
        icc_profile=metadata.icc,
        xmp=metadata.xmp or b"",
        **settings,
    )


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """libwebp holds the picture in several forms at once: on noise 35 bytes a pixel, lossless 39, and some for alpha, as
    benchmarks/codec_memory.py measures."""
    return pixels * (40 if channels == 4 else 38)
