"""JPEG XL: imagecodecs (libjxl) decodes; this file reads the header, bit by bit, and the boxes around it. Where that names
another colour space than sRGB, libjxl is asked for the profile of its pixels.

codestream (FF 0A ...)          or          boxes: "JXL ", "ftyp", "jxlc" or "jxlp" (codestream), "Exif", "xml ", "brob"
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import imagecodecs
import numpy as np

from . import cicp, exif, libjxl
from .picture import Metadata, Stored, array_bytes, content, fault

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
ALPHA, SPOT_COLOUR, MOSAIC = 0, 2, 5  # kinds of extra channels
# Of colour spaces, white points, primaries and transfer functions.
GREY, D65, SRGB_PRIMARIES, SRGB_CURVE, CUSTOM = 1, 1, 1, 13, 2
MAX_HEADER = 2**16  # bytes of the codestream in which the header ends


class _Bits:
    """Reads numbers from their lowest bit on."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = int.from_bytes(data, "little"), 0
        self._size = 8 * len(data)

    def take(self, count: int) -> int:
        if self._place + count > self._size:
            raise ValueError("the header is cut off")
        value = self._data >> self._place & ((1 << count) - 1)
        self._place += count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """One of four ways to write a number: an offset and so many bits."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)


@dataclass
class _Header:
    width: int
    height: int
    bits: int = 8
    float: bool = False
    grey: bool = False
    alpha: bool = False
    associated: bool = False
    animated: bool = False
    srgb: bool = True  # or grey on its curve
    transfer: int = SRGB_CURVE


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    boxes = dict(_boxes(file, size))
    start = boxes.get(b"jxlc", boxes.get(b"jxlp", b""))
    if not start.startswith(CODESTREAM):
        raise fault(file.name, "the JPEG XL file holds no picture; get another copy of it")
    found = _parse(start)
    if found.animated:
        raise fault(file.name, "animated JPEG XLs are not supported; save one frame as an image of its own")
    if found.associated or found.bits > (32 if found.float else 16) or (found.float and found.bits < 32):
        raise fault(file.name, "JPEG XLs of this kind are not supported; convert it to PNG or TIFF")
    pixels = found.width * found.height
    dtype = np.dtype(np.float32 if found.float else np.uint8 if found.bits <= 8 else np.uint16)
    channels = (1 if found.grey else 3) + found.alpha
    block = boxes.get(b"Exif", b"")
    exif_blob = exif.unmarked(block[4 + int.from_bytes(block[:4], "big") :])
    icc: bytes | None = None
    damage: tuple[str, ...] = ()
    if found.transfer in cicp.HDR:
        damage = (cicp.hdr(found.transfer),)
    elif not found.srgb:
        try:
            icc = libjxl.profile(content(file))
        except libjxl.ProfileError as error:
            damage = (str(error),)
    return Stored(
        format="JPEG XL",
        width=found.width,
        height=found.height,
        channels=channels,
        dtype=dtype,
        orientation=1,  # libjxl applies it
        metadata=Metadata(exif_blob, icc, boxes.get(b"xml ") or None, dpi=exif.resolution(exif.parse_block(exif_blob))),
        lossless=False,
        decode=lambda: imagecodecs.jpegxl_decode(content(file)),
        # libjxl may hold planes of floats beside the result: of pictures with patches, frames or many passes. Of plain
        # ones it does not: benchmarks/codec_memory.py measures 11 bytes a pixel, of 16 bits 17.
        decode_bytes=2 * size + array_bytes(pixels, channels, dtype) + array_bytes(pixels, 8, np.float32),
        damage=damage,
    )


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents; of the codestream, the start."""
    file.seek(0)
    if file.read(2) == CODESTREAM:
        file.seek(0)
        yield b"jxlc", file.read(MAX_HEADER)
        return
    place, seen = 0, set()
    while place + 8 <= size:
        file.seek(place)
        length, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            head = 16
        end = place + length if length else size
        if end > size or end < place + head:
            raise fault(file.name, "the JPEG XL file is cut off; get another copy of it")
        if name in (b"jxlc", b"jxlp"):
            if name == b"jxlp":
                file.seek(4, io.SEEK_CUR)  # the number of this part
            contents = file.read(min(end - file.tell(), MAX_HEADER))
        elif name in (b"Exif", b"xml ", b"brob"):
            contents = file.read(end - place - head)
            if name == b"brob":
                name, contents = contents[:4], bytes(imagecodecs.brotli_decode(contents[4:]))
        else:
            contents = b""
        if name not in seen:
            yield name, contents
        seen.add(name)
        place = end


def _parse(data: bytes) -> _Header:
    """The first fields of SizeHeader and ImageMetadata of ISO/IEC 18181-1."""
    bits = _Bits(data[2:])
    found = _Header(*_size(bits))
    if bits.take(1):  # all as usual
        return found
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            _size(bits)  # to be shown at
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            found.animated = True
            return found
    found.float, found.bits = _depth(bits)
    bits.take(1)
    for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12))):
        _extra_channel(bits, found)
    bits.take(1)  # XYB
    if not bits.take(1):
        _colours(bits, found)
    return found


def _colours(bits: _Bits, found: _Header) -> None:
    """The colour encoding, of which a profile may take the place."""
    enum = ((0, 0), (1, 0), (2, 4), (18, 6))
    profile = bits.take(1)
    found.grey = bits.choose(*enum) == GREY
    found.srgb = False
    if profile:
        return
    white = bits.choose(*enum)
    if white == CUSTOM:
        _places(bits, 1)
    primaries = SRGB_PRIMARIES if found.grey else bits.choose(*enum)
    if primaries == CUSTOM:
        _places(bits, 3)
    if bits.take(1):  # a power
        return
    found.transfer = bits.choose(*enum)
    found.srgb = (white, primaries, found.transfer) == (D65, SRGB_PRIMARIES, SRGB_CURVE)


def _places(bits: _Bits, count: int) -> None:
    """x and y of colours."""
    for _ in range(2 * count):
        bits.choose((0, 19), (2**19, 19), (2**20, 20), (2**21, 21))


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    width = side() if not ratio else height * RATIOS[ratio][0] // RATIOS[ratio][1]
    return width, height


def _preview(bits: _Bits) -> None:
    eighth = bits.take(1)
    choices = ((16, 0), (32, 0), (1, 5), (33, 9)) if eighth else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.choose(*choices)
    if not bits.take(3):
        bits.choose(*choices)


def _depth(bits: _Bits) -> tuple[bool, int]:
    if bits.take(1):
        depth = bits.choose((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
        return True, depth
    return False, bits.choose((8, 0), (10, 0), (12, 0), (1, 6))


def _extra_channel(bits: _Bits, found: _Header) -> None:
    if bits.take(1):  # alpha as usual
        found.alpha = True
        return
    kind = bits.choose((0, 0), (1, 0), (2, 4), (18, 6))
    _depth(bits)
    bits.choose((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.choose((0, 0), (0, 4), (16, 5), (48, 10)))  # its name
    if kind == ALPHA:
        found.alpha = True
        found.associated |= bool(bits.take(1))
    elif kind == SPOT_COLOUR:
        bits.take(64)
    elif kind == MOSAIC:
        bits.choose((1, 0), (0, 2), (3, 4), (19, 8))
