"""JPEG: Pillow writes, imagecodecs (libjpeg-turbo) decodes straight into an array, jpeg_segments reads what is around it.

A multi-picture file (MPO) is a JPEG followed by others; the first is read.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import imagecodecs
import numpy as np

from . import colour, exif, jpeg_segments, pillow
from .jpeg_segments import MAX_SEGMENT
from .picture import Depth, Metadata, Samples, Stored, Unfit, content, fault

MAX_SIDE = 65500  # libjpeg's
MAX_DPI = 65535

# Pixels a byte. Every block of 8 x 8 takes a bit, or somewhat less in arithmetic coding: this allows for an eighth.
MAX_RATIO = 4096

XMP_ROOM = MAX_SEGMENT - len(jpeg_segments.XMP)

END_OF_IMAGE = b"\xff\xd9"


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    found = jpeg_segments.read(file)
    width, height, channels = found.width, found.height, found.components
    if not (width and height):
        raise fault(file.name, "damaged JPEG header; get another copy of the file")
    if found.precision != 8 or channels not in (1, 3, 4):
        kind = f"JPEGs of {found.precision} bit and {channels} channels"
        raise fault(file.name, f"{kind} are not supported; convert it to TIFF or PNG")

    damage: list[str] = []
    icc = extended = None
    try:
        icc = found.profile()
    except ValueError as error:
        damage.append(str(error))
    try:
        extended = found.extended_xmp()
    except ValueError as error:
        damage.append(str(error))
    inks = channels == 4
    if inks and icc and not colour.describes_inks(icc):
        icc = None
        damage.append("colour profile, which is none of four inks")
    directories = exif.parse_block(found.exif)

    def decode() -> Samples:
        data = content(file)
        # libjpeg fills what is missing with grey and only warns. In coded data, these two bytes are the end only.
        if data.find(END_OF_IMAGE, found.scan) < 0:
            raise fault(file.name, jpeg_segments.CUT_OFF)
        samples = imagecodecs.jpeg8_decode(data)
        # Adobe's programs store CMYK inverted, and all others followed them.
        return colour.inks_to_rgb(samples, icc, inverted=True) if inks else samples

    # libjpeg keeps all coefficients (16 bits each) of a picture whose components come in several scans.
    one_scan = found.in_scan == channels and found.frame not in jpeg_segments.PROGRESSIVE
    coefficients = 0 if one_scan else 2 * channels
    return Stored(
        format="JPEG",
        width=width,
        height=height,
        channels=3 if inks else channels,
        dtype=np.dtype(np.uint8),
        orientation=exif.orientation(directories),
        metadata=Metadata(
            found.exif or None,
            None if inks else icc,
            found.xmp,
            b"".join(found.photoshop) or None,
            _resolution(found) or exif.resolution(directories),
            found.comment,
            extended_xmp=extended,
        ),
        lossless=False,
        decode=decode,
        least_bytes=width * height // MAX_RATIO,
        decode_bytes=size + width * height * (channels + max(coefficients, 3 if inks else 0)),
        damage=tuple(damage),
    )


def _resolution(found: jpeg_segments.Segments) -> tuple[float, float] | None:
    """As JFIF states it; without a unit it is a shape of pixels only."""
    kind, across, down = found.density or (0, 0, 0)
    unit = {1: 1.0, 2: 2.54}.get(kind)
    return (across * unit, down * unit) if unit and across and down else None


def check_metadata(metadata: Metadata) -> None:
    """Raise Unfit for metadata that are too long for a JPEG."""
    for name, contents, room in (
        ("EXIF data", metadata.exif, MAX_SEGMENT - 6),
        ("XMP data", metadata.xmp, XMP_ROOM),
        ("the comment", metadata.comment, MAX_SEGMENT),
    ):
        if contents and len(contents) > room:
            raise Unfit(f"{name} of {len(contents):,} bytes; JPEG holds {room:,}; write PNG, WebP or TIFF instead")


def encode(file: BinaryIO, samples: Samples, metadata: Metadata, *, quality: int) -> None:
    """Write (H, W) or (H, W, 3) uint8 `samples`, colour at full resolution (4:4:4); see check_metadata."""
    pillow.save(
        samples,
        file,
        "JPEG",
        quality=quality,
        subsampling="4:4:4",
        dpi=metadata.dpi if metadata.dpi and max(metadata.dpi) <= MAX_DPI else (0, 0),
        exif=exif.MARK + metadata.exif if metadata.exif else b"",
        icc_profile=metadata.icc,
        xmp=metadata.xmp,
        comment=metadata.comment,
        extra=b"".join(
            [
                *jpeg_segments.photoshop(metadata.photoshop or b""),
                *jpeg_segments.extension(metadata.extended_xmp or b""),
            ]
        ),
    )


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """Pillow holds RGB in four bytes a pixel, and maps grey where it is."""
    return pixels * 4 if channels == 3 else 0
