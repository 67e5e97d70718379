"""haze_map(): an estimate of transmission as a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import exif, tiff
from .colour import bands
from .picture import WORKSPACE_BYTES, Metadata, Picture, array_bytes
from .reading import Header
from .writing import write_bytes

U16 = np.dtype(np.uint16)


def haze_map(picture: Picture, transmission: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> Picture:
    """A map of transmission, (H, W) in (0, 1], as a grey picture of 16 bits: 65535 for 1.

    It is 0 where `valid`, (H, W), is False, and a TIFF says that this stands for no data. Of the metadata of `picture` it
    has those of a TIFF, among them its place on the ground.
    """
    pixels = np.empty((*transmission.shape, 3), U16)
    for rows in bands(len(pixels), pixels.shape[1]):
        values = np.rint(transmission[rows] * 65535).clip(1, 65535)
        pixels[rows] = (values if valid is None else np.where(valid[rows], values, 0))[..., None]
    return Picture(pixels, grey=True, format=picture.format, metadata=_metadata(picture.metadata, valid is not None))


def haze_map_bytes(header: Header) -> int:
    """Upper bound, in bytes, of what a map, its picture and writing it need for a picture like this."""
    pixels = header.width * header.height
    picture = array_bytes(pixels, 1, np.float32) + array_bytes(pixels, 3, U16)
    return WORKSPACE_BYTES + picture + max(write_bytes(pixels, 1, U16, format) for format in ("PNG", "TIFF"))


def _metadata(metadata: Metadata, gaps: bool) -> Metadata:
    """Of the map: no profile, for it has no colours, and its own value for no data."""
    block, directories = metadata.exif, exif.parse_block(metadata.exif)
    if directories and (gaps or tiff.NODATA in directories.main):
        directories.main.pop(tiff.NODATA, None)
        if gaps:
            directories.main[tiff.NODATA] = exif.Value(exif.ASCII, b"0\0", 0)
        block = exif.blob(directories)
    return Metadata(exif=block, dpi=metadata.dpi)
