"""JPEG: Pillow reads the header and writes files, imagecodecs (libjpeg-turbo) decodes straight into an array.

A multi-picture file (MPO) is a JPEG followed by others; this file reads the first.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import JpegImagePlugin

from . import colour, exif, pillow
from .picture import Depth, Metadata, Samples, Stored, Unfit, content, fault

MAX_SIDE = 65500  # libjpeg's
MAX_SEGMENT = 65533
MAX_DPI = 65535

# Pixels a byte. Every block of 8 x 8 takes a bit, or somewhat less in arithmetic coding: this allows for an eighth.
MAX_RATIO = 4096
CUT_OFF = "the JPEG file is cut off or damaged; get another copy of it"

PHOTOSHOP = b"Photoshop 3.0\0"
XMP_ROOM = MAX_SEGMENT - len(b"http://ns.adobe.com/xap/1.0/\0")

END_OF_IMAGE = b"\xff\xd9"


class _Header(JpegImagePlugin.JpegImageFile):
    """Pillow's reader, less its search for a resolution in EXIF, which warns of, or fails for, values of odd types."""

    def _read_dpi_from_exif(self) -> None:
        pass


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # The class itself, not Image.open: that would check, and warn of, a limit on pixels which is set for the process.
    header = _Header(file)
    width, height = header.size
    stored_channels = len(header.getbands())
    info = header.info
    if not header.tile:
        raise fault(file.name, CUT_OFF)

    # Pillow stops behind the header of the first scan: length (2 bytes), number of components (1), ...
    # libjpeg keeps all coefficients (16 bits each) of a picture whose components come in several scans.
    scan = file.tell()
    file.seek(-(6 + 2 * stored_channels), io.SEEK_CUR)
    one_scan = file.read(3) == struct.pack(">HB", 6 + 2 * stored_channels, stored_channels)
    coefficients = 0 if one_scan and "progressive" not in info else 2 * stored_channels

    exif_blob = info.get("exif", b"").removeprefix(b"Exif\0\0") or None
    directories = exif.parse_block(exif_blob)
    unit = {1: 1.0, 2: 2.54}.get(info.get("jfif_unit", 0))
    dpi = exif.resolution(directories)
    if unit and all(info["jfif_density"]):
        dpi = (info["jfif_density"][0] * unit, info["jfif_density"][1] * unit)
    photoshop = b"".join(
        segment.removeprefix(PHOTOSHOP)
        for name, segment in header.applist
        if name == "APP13" and segment.startswith(PHOTOSHOP)
    )
    icc = info.get("icc_profile")
    inks = stored_channels == 4

    def decode() -> Samples:
        data = content(file)
        # libjpeg fills what is missing with grey and only warns. In coded data, these two bytes are the end only.
        if data.find(END_OF_IMAGE, scan) < 0:
            raise fault(file.name, CUT_OFF)
        samples = imagecodecs.jpeg8_decode(data)
        # Adobe's programs store CMYK inverted, and all others followed them.
        return colour.inks_to_rgb(samples, icc, inverted=True) if inks else samples

    return Stored(
        format="JPEG",
        width=width,
        height=height,
        channels=3 if inks else stored_channels,
        dtype=np.dtype(np.uint8),
        orientation=exif.orientation(directories),
        metadata=Metadata(
            exif_blob, None if inks else icc, info.get("xmp"), photoshop or None, dpi, info.get("comment")
        ),
        lossless=False,
        decode=decode,
        least_bytes=width * height // MAX_RATIO,
        decode_bytes=size + width * height * (stored_channels + max(coefficients, 3 if inks else 0)),
    )


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
    room = MAX_SEGMENT - len(PHOTOSHOP)
    parts = (
        [metadata.photoshop[at : at + room] for at in range(0, len(metadata.photoshop), room)]
        if metadata.photoshop
        else []
    )
    pillow.save(
        samples,
        file,
        "JPEG",
        quality=quality,
        subsampling="4:4:4",
        dpi=metadata.dpi if metadata.dpi and max(metadata.dpi) <= MAX_DPI else (0, 0),
        exif=b"Exif\0\0" + metadata.exif if metadata.exif else b"",
        icc_profile=metadata.icc,
        xmp=metadata.xmp,
        comment=metadata.comment,
        extra=b"".join(
            b"\xff\xed" + struct.pack(">H", 2 + len(PHOTOSHOP) + len(part)) + PHOTOSHOP + part for part in parts
        ),
    )


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """Pillow holds RGB in four bytes a pixel, and maps grey where it is."""
    return pixels * 4 if channels == 3 else 0
