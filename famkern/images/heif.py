"""HEIF, as phones write it (HEIC): pillow-heif (libheif) reads. Its turns and mirrors are applied as it decodes."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from . import cicp, colour, exif
from .picture import Metadata, Samples, Stored, array_bytes, content, fault, needs


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    with needs(file.name, "pillow-heif"):
        import pillow_heif

    size = file.seek(0, io.SEEK_END)
    container = pillow_heif.open_heif(io.BytesIO(content(file)), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    image = container[container.primary_index]
    width, height = image.size
    if not (width and height):
        raise fault(file.name, "damaged HEIF header; get another copy of the file")
    info: dict[str, Any] = image.info
    bits = int(info.get("bit_depth", 8))
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(image.mode.split(";")[0], 0)
    if not channels:
        raise fault(file.name, f"HEIFs of kind {image.mode} are not supported; convert it to PNG")
    exif_blob = exif.unmarked(info.get("exif"))
    icc: bytes | None = info.get("icc_profile")
    damage: tuple[str, ...] = ()
    named = info.get("nclx_profile")
    if named and not icc:
        try:
            icc = cicp.profile(int(named["color_primaries"]), int(named["transfer_characteristics"]))
        except ValueError as error:
            damage = (str(error),)

    def decode() -> Samples:
        samples = np.asarray(image)
        return samples if bits == 8 else colour.stretched(samples, bits)

    return Stored(
        format="HEIF",
        width=width,
        height=height,
        channels=channels,
        dtype=dtype,
        orientation=1,
        metadata=Metadata(exif_blob, icc, info.get("xmp"), dpi=exif.resolution(exif.parse_block(exif_blob))),
        lossless=False,
        decode=decode,
        # Measured on noise by benchmarks/codec_memory.py, of 8 bits and 10: 11 and 27 bytes a pixel; this makes 19 and 35.
        decode_bytes=2 * size + 4 * array_bytes(width * height, 4, dtype),
        damage=damage,
    )
