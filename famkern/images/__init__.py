"""Pixels in and out of files: JPEG, PNG (8 and 16 bit), WebP, TIFF (8 and 16 bit, float32), BMP and AVIF;
in, also JPEG XL, HEIF and camera RAW.

    picture = read("hazy.jpg")
    write("clear.png", dataclasses.replace(picture, pixels=clear))

Depth, transparency, colour profile, EXIF and other metadata go along; see `Picture`, `read` and `write`.
"""

from .colour_space import ColourSpace, colour_space
from .compare import halves, side_by_side, side_by_side_bytes
from .files import ADVICE, TEMPORARY, check_writable, remove_dead, replacing, temporary, writing
from .gaps import Gaps, gaps_bytes
from .haze_map import haze_map, haze_map_bytes
from .picture import (
    INSTALL,
    MAX_PIXELS,
    NEEDS,
    READ_SUFFIXES,
    SUFFIXES,
    UNREAD_SUFFIXES,
    WORKSPACE_BYTES,
    Bands,
    Empty,
    ImageError,
    Metadata,
    Picture,
    Samples,
    fault,
    is_picture,
    is_readable,
    printable,
    suffix_of,
)
from .reading import Header, header, holds_picture, read
from .tiff import TILE
from .writing import write

__all__ = [
    "ADVICE",
    "INSTALL",
    "MAX_PIXELS",
    "NEEDS",
    "READ_SUFFIXES",
    "SUFFIXES",
    "TEMPORARY",
    "TILE",
    "UNREAD_SUFFIXES",
    "WORKSPACE_BYTES",
    "Bands",
    "ColourSpace",
    "Empty",
    "Gaps",
    "Header",
    "ImageError",
    "Metadata",
    "Picture",
    "Samples",
    "check_writable",
    "colour_space",
    "fault",
    "gaps_bytes",
    "halves",
    "haze_map",
    "haze_map_bytes",
    "header",
    "holds_picture",
    "is_picture",
    "is_readable",
    "printable",
    "read",
    "remove_dead",
    "replacing",
    "side_by_side",
    "side_by_side_bytes",
    "suffix_of",
    "temporary",
    "write",
    "writing",
]
