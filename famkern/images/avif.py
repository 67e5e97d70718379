"""AVIF: Pillow (libavif) reads the header and writes 8 bits, imagecodecs (libavif) decodes 8, 10 and 12."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import AvifImagePlugin

from . import cicp, colour, exif, pillow
from .picture import Depth, Metadata, Samples, Stored, array_bytes, content, fault

MAX_SIDE = 65535


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    data = content(file)
    # The class itself, not Image.open: that would check, and warn of, a limit on pixels which is set for the process.
    header = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    if getattr(header, "n_frames", 1) > 1:
        raise fault(file.name, "animated AVIFs are not supported; save one frame as an image of its own")
    width, height = header.size
    bits = _bits(data)
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    alpha = header.mode.endswith("A")
    channels = 4 if alpha else 3
    exif_blob = exif.unmarked(header.info.get("exif"))
    directories = exif.parse_block(exif_blob)
    icc: bytes | None = header.info.get("icc_profile")
    damage: tuple[str, ...] = ()
    if not icc:
        try:
            icc = _named_profile(data)
        except ValueError as error:
            damage = (str(error),)

    def decode() -> Samples:
        samples = imagecodecs.avif_decode(content(file))
        if samples.ndim == 2 or samples.shape[2] < 3:
            grey = samples.reshape(height, width, -1)
            colours = [grey[..., :1]] * 3
            samples = np.concatenate([*colours, grey[..., 1:]] if alpha else colours, axis=2)
        return samples if bits == 8 else colour.stretched(samples, bits)

    return Stored(
        format="AVIF",
        width=width,
        height=height,
        channels=channels,
        dtype=dtype,
        orientation=exif.orientation(directories),
        metadata=Metadata(exif_blob, icc, header.info.get("xmp"), dpi=exif.resolution(directories)),
        lossless=False,
        decode=decode,
        # libavif holds planes and the pixels; beside these the file, once here and once in Pillow. Measured on noise by
        # benchmarks/codec_memory.py, of 8 bits and 10: 11 and 26 bytes a pixel, where this makes 16 and 29.
        decode_bytes=2 * size + 3 * array_bytes(width * height, 4, dtype),
        damage=damage,
    )


def _bits(data: bytes) -> int:
    """Bits of a sample, from the first configuration of AV1."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0  # high_bitdepth is the bit of 64, twelve_bit that of 32
    return 8 if not flags & 64 else 12 if flags & 32 else 10


def _named_profile(data: bytes) -> bytes | None:
    """The profile of the colour space that a file without a profile names; an error for HDR."""
    at = data.find(b"colrnclx") + 8
    return cicp.profile(*struct.unpack_from(">HH", data, at)) if 8 <= at <= len(data) - 4 else None


def encode(file: BinaryIO, samples: Samples, metadata: Metadata, *, quality: int) -> None:
    """Write (H, W, 3 or 4) uint8 `samples`, colour at full resolution (4:4:4)."""
    pillow.save(
        samples,
        file,
        "AVIF",
        quality=quality,
        subsampling="4:4:4",
        exif=metadata.exif or b"",
        icc_profile=metadata.icc,
        xmp=metadata.xmp or b"",
    )


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """The encoder holds frames to refer to and statistics, and for each thread some rows, whatever the picture's size.

    benchmarks/codec_memory.py measures 69 MB for 1024 x 1024 pixels of noise and 204 MB for 2048 x 2048, 43 bytes a pixel
    and 24 MB; alpha and the content matter little, and 16 threads take 10 MB more.
    """
    return pixels * 48 + 2**25
