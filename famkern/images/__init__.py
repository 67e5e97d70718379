"""Pixels in and out of files: JPEG, PNG (8 and 16 bit), WebP, TIFF (8 and 16 bit, float32) and BMP.

    picture = read("hazy.jpg")
    write("clear.png", dataclasses.replace(picture, pixels=clear))

Depth, transparency, colour profile, EXIF and other metadata go along; see `Picture`, `read` and `write`.
"""

from .compare import side_by_side, side_by_side_bytes
from .files import check_writable, remove_dead, replacing
from .gaps import Gaps, gaps_bytes
from .picture import MAX_PIXELS, SUFFIXES, UNREAD_SUFFIXES, Bands, ImageError, Metadata, Picture, printable
from .reading import Header, header, read
from .writing import write

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "Bands",
    "Gaps",
    "Header",
    "ImageError",
    "Metadata",
    "Picture",
    "check_writable",
    "gaps_bytes",
    "header",
    "printable",
    "read",
    "remove_dead",
    "replacing",
    "side_by_side",
    "side_by_side_bytes",
    "write",
]
