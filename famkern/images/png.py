"""PNG: imagecodecs (libpng) codes the pixels, 8 and 16 bit alike; this file reads and places the chunks around them.

    signature | IHDR | ancillary chunks ... | IDAT ... | ancillary chunks ... | IEND

Every chunk is: length (4 bytes), name (4), contents (length), checksum (4). Pillow would read and write the metadata,
but has no 16-bit RGB; libpng as wrapped by imagecodecs has no metadata.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import imagecodecs
import numpy as np

from . import cicp, exif
from .picture import Depth, Metadata, Samples, Stored, array_bytes, fault

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_SIDE = 1_000_000  # libpng's own limit

# IHDR's colour type to samples of a pixel; palettes are expanded.
SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}

# Copied as they are from PNG to PNG: what they say holds for the processed pixels too.
COPIED = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt"}
# A compressed chunk that unpacks to more than this is an attack or damage.
MAX_UNPACKED = 64 * 2**20
MAX_RATIO = 1032  # deflate's best: 258 bytes in two bits
XMP_KEY = b"XML:com.adobe.xmp\0"
METRES_PER_INCH = 0.0254


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    width = height = 0
    depth = colour = -1
    transparent = False
    found, damage = _Metadata(), []
    packed = 0  # bytes of compressed pixels
    for name, length, contents, whole in _chunks(file, size):
        if name == b"IDAT":
            packed += length
        elif name == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", contents[:10])
        elif name == b"tRNS":
            transparent = True
        elif name != b"PLTE":
            try:
                if not whole:
                    raise ValueError("wrong checksum")
                found.take(name, contents)
            except (ValueError, struct.error, IndexError, zlib.error) as error:
                damage.append(f"{name.decode('latin-1')} chunk ({error})")
    if depth not in (1, 2, 4, 8, 16) or colour not in SAMPLES or not (width and height):
        raise fault(file.name, "damaged PNG header; get another copy of the file")
    if found.frames > 1:
        raise fault(file.name, "animated PNGs are not supported; save one frame as a PNG of its own")
    if max(width, height) > MAX_SIDE:
        raise fault(file.name, f"PNGs wider or higher than {MAX_SIDE:,} are not supported; convert it to TIFF")
    channels = SAMPLES[colour] + (transparent and colour in (0, 2, 3))
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    directories = exif.parse_block(found.exif)
    return Stored(
        format="PNG",
        width=width,
        height=height,
        channels=channels,
        dtype=dtype,
        orientation=exif.orientation(directories),
        metadata=Metadata(
            found.exif,
            found.named or found.icc,
            found.xmp,
            dpi=found.dpi,
            comment=found.comment,
            chunks=tuple(found.copied),
        ),
        lossless=True,
        decode=lambda: imagecodecs.png_decode(_pixels_only(file, size)),
        least_bytes=size - packed + width * height * SAMPLES[colour] * depth // (8 * MAX_RATIO),
        decode_bytes=size + array_bytes(width * height, channels, dtype),
        damage=tuple(damage),
    )


class _Metadata:
    """What the chunks besides the pixels say."""

    def __init__(self) -> None:
        self.frames = 1
        self.exif: bytes | None = None
        self.icc: bytes | None = None
        self.named: bytes | None = None  # the profile of the colours that cICP names, which goes before iCCP
        self.xmp: bytes | None = None
        self.dpi: tuple[float, float] | None = None
        self.comment: bytes | None = None
        self.copied: list[tuple[bytes, bytes]] = []

    def take(self, name: bytes, contents: bytes) -> None:
        """Take one in; whatever a parser raises means that the chunk is damaged."""
        if name == b"acTL":
            (self.frames,) = struct.unpack(">I", contents[:4])
        elif name == b"eXIf":
            self.exif = exif.unmarked(contents)
        elif name == b"iCCP":
            self.icc = _unpacked(contents.split(b"\0", 1)[1][1:])
        elif name == b"pHYs" and contents[8:9] == b"\1":
            across, down = struct.unpack(">II", contents[:8])
            self.dpi = (across * METRES_PER_INCH, down * METRES_PER_INCH)
        elif name == b"iTXt" and contents.startswith(XMP_KEY):
            self.xmp = _international_text(contents)
        elif name in COPIED:
            if contents.startswith(b"Comment\0") and name == b"tEXt":
                self.comment = contents.split(b"\0", 1)[1].decode("latin-1").encode()
            elif contents.startswith(b"Comment\0") and name == b"iTXt":
                self.comment = _international_text(contents)
            self.copied.append((name, contents))
            if name == b"cICP":
                self.named = cicp.profile(contents[0], contents[1])


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, bytes, bool]]:
    """Names, lengths, contents (of the pixels: nothing) and whether the checksum is right, in file order."""
    file.seek(len(SIGNATURE))
    name = b""
    while name != b"IEND":
        head = file.read(8)
        length, name = struct.unpack(">I4s", head) if len(head) == 8 else (size, b"")
        end = file.tell() + length + 4
        if end > size:
            raise fault(file.name, "the PNG file is cut off; get another copy of it")
        contents = b"" if name == b"IDAT" else file.read(length)
        yield name, length, contents, file.read(4) == struct.pack(">I", zlib.crc32(name + contents))
        file.seek(end)


def _pixels_only(file: BinaryIO, size: int) -> bytearray:
    """The file without metadata, which libpng would look into, and refuse or complain of where they are damaged.

    Checksums of what is left are looked at here: libpng would first print what else is wrong with such pixels.
    """
    pixels = bytearray(size)
    place = end = len(SIGNATURE)
    name = b""
    with memoryview(pixels) as room:
        room[:end] = SIGNATURE
        while name != b"IEND":
            file.seek(place)
            length, name = struct.unpack(">I4s", file.read(8))
            if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                file.seek(place)
                begin, end = end, end + file.readinto(room[end : end + length + 12])  # type: ignore[attr-defined]
                if zlib.crc32(room[begin + 4 : end - 4]) != int.from_bytes(room[end - 4 : end], "big"):
                    raise fault(
                        file.name, "the pixels of the PNG are damaged (wrong checksum); get another copy of the file"
                    )
            place += length + 12
    del pixels[end:]
    return pixels


def _unpacked(packed: bytes) -> bytes:
    engine = zlib.decompressobj()
    data = engine.decompress(packed, MAX_UNPACKED)
    if engine.unconsumed_tail:
        raise ValueError(f"over {MAX_UNPACKED >> 20} MiB")
    if not engine.eof:
        raise ValueError("cut off")
    return data


def _international_text(contents: bytes) -> bytes:
    """The UTF-8 text of an iTXt chunk: key, 0, packed?, method, language, 0, translated key, 0, text."""
    rest = contents.split(b"\0", 1)[1]
    text = rest[2:].split(b"\0", 2)[2]
    return _unpacked(text) if rest[:1] == b"\1" else text


def encode(file: BinaryIO, samples: Samples, metadata: Metadata) -> None:
    """Write (H, W) or (H, W, 2..4) uint8 or uint16 `samples`.

    Run lengths and the left neighbour as predictor: two to four times as fast as libpng's defaults, and photographs,
    whose last bits are noise, come out within a few percent of the same size.
    """
    # Given the room for the worst case, imagecodecs writes in place instead of copying the result once more. Pages that
    # stay untouched take no memory. Deflate adds under 0.1 %, each 8 KiB chunk 12 bytes, each row one filter byte.
    room = bytearray(samples.nbytes + samples.nbytes // 256 + 2 * samples.shape[0] + 2**16)
    encoded = memoryview(
        imagecodecs.png_encode(
            samples.ravel().reshape(samples.shape),  # a view; imagecodecs is strict about the strides of sides of 1
            level=1,
            strategy=imagecodecs.PNG.STRATEGY.RLE,
            filter=imagecodecs.PNG.FILTER.SUB,
            out=room,
        )
    )
    start = len(SIGNATURE) + 12 + 13  # behind the signature and IHDR
    file.write(encoded[:start])
    for name, contents in _metadata_chunks(metadata):
        file.write(struct.pack(">I", len(contents)) + name + contents)
        file.write(struct.pack(">I", zlib.crc32(name + contents)))
    file.write(encoded[start:])


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """The encoded file, which is as large as the pixels if they are noise."""
    return int(array_bytes(pixels, channels, dtype) * 1.01)


def _metadata_chunks(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    if metadata.icc:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)
    if metadata.dpi:
        yield b"pHYs", struct.pack(">IIB", *(round(dpi / METRES_PER_INCH) for dpi in metadata.dpi), 1)
    if metadata.exif:
        yield b"eXIf", metadata.exif
    if metadata.xmp:
        yield b"iTXt", XMP_KEY + b"\0\0\0\0" + metadata.xmp
    if metadata.comment and not any(contents.startswith(b"Comment\0") for _, contents in metadata.chunks):
        yield b"iTXt", b"Comment\0\0\0\0\0" + _utf8(metadata.comment)
    yield from metadata.chunks


def _utf8(text: bytes) -> bytes:
    """JPEG comments name no encoding: UTF-8 if they can be, otherwise Latin-1, which anything can be."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text
