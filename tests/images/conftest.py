"""Pictures, metadata blocks and hand-made files for the tests of famkern.images."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from famkern.images import Picture

MakePicture = Callable[..., Picture]


def _picture(height=61, width=67, dtype=np.uint8, *, grey=False, alpha=False, **fields) -> Picture:
    """Noise, the hardest content to code and the easiest to tell apart."""
    random = np.random.default_rng(height * 1000 + width)
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    samples = (random.random((height, width, 4)) * white).astype(dtype)
    samples[-1, -1], samples[0, 0] = white, 0
    pixels = np.repeat(samples[..., :1], 3, axis=2) if grey else np.ascontiguousarray(samples[..., :3])
    return Picture(pixels, np.ascontiguousarray(samples[..., 3]) if alpha else None, grey, **fields)


@pytest.fixture
def picture() -> MakePicture:
    return _picture


@pytest.fixture
def smooth() -> Picture:
    """A picture that lossy formats code well."""
    y, x = np.mgrid[0:96, 0:128]
    return Picture(np.stack([x, y + 40, 200 - (x + y) // 2], axis=-1).astype(np.uint8))


@pytest.fixture
def exif_block() -> Callable[..., bytes]:
    """EXIF as Pillow writes it: a TIFF structure with main, exif and gps directories and a thumbnail."""

    def make(orientation=1, order="<", artist="someone") -> bytes:
        exif = Image.Exif()
        exif.endian = order
        exif[ExifTags.Base.Orientation] = orientation
        exif[ExifTags.Base.Make] = "Camera & Co"
        exif[ExifTags.Base.Artist] = artist
        exif[ExifTags.IFD.Exif] = {
            ExifTags.Base.ExposureTime: 0.004,
            ExifTags.Base.MakerNote: b"\1\2secret\3",
            ExifTags.Base.ExifImageWidth: 67,
            ExifTags.Base.ExifImageHeight: 61,
        }
        exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (47.0, 30.0, 1.5)}
        return exif.tobytes().removeprefix(b"Exif\0\0")

    return make


@pytest.fixture
def exif_values() -> Callable[[bytes], dict]:
    """Directories of an EXIF block by name, read by Pillow."""

    def load(block: bytes) -> dict:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + block)
        directories = {
            "main": dict(exif),
            "exif": dict(exif.get_ifd(ExifTags.IFD.Exif)),
            "gps": dict(exif.get_ifd(ExifTags.IFD.GPSInfo)),
            "thumbnail": dict(exif.get_ifd(ExifTags.IFD.IFD1)),
        }
        for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            directories["main"].pop(tag, None)
        return directories

    return load


@pytest.fixture(scope="session")
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def inks_profile() -> bytes:
    """A CMYK profile (ICC version 2) made by hand: a table of 2 x 2 x 2 x 2 inks to L*a*b*."""
    grid = bytearray()
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        light = max(0, 255 - 70 * c - 80 * m - 20 * y - 200 * k)
        grid += bytes((light, 128 + (1 - k) * (60 * m - 40 * c), 128 + (1 - k) * (70 * y - 40 * c)))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    white = struct.pack(">3i", 63190, 65536, 54061)
    bodies = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"A2B0": b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * ramp + bytes(grid) + 3 * ramp,
    }
    table, data = struct.pack(">I", len(bodies)), b""
    for name, body in bodies.items():
        table += name + struct.pack(">II", 132 + 12 * len(bodies) + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s12s", 128 + len(table + data), b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ",
        bytes(12), b"acsp", bytes(28), white,
    )  # fmt: skip
    return head.ljust(128, b"\0") + table + data


@pytest.fixture
def png_file() -> Callable[..., bytes]:
    """A PNG of the given header fields, raw rows (each with its filter byte) and extra chunks."""

    def make(width, height, depth, colour, rows: bytes, before=(), after=(), interlaced=0) -> bytes:
        def chunk(name: bytes, contents: bytes) -> bytes:
            return struct.pack(">I", len(contents)) + name + contents + struct.pack(">I", zlib.crc32(name + contents))

        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)),
            *before,
            (b"IDAT", zlib.compress(rows)),
            *after,
            (b"IEND", b""),
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*entry) for entry in chunks)

    return make


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """An image file as Pillow writes it."""

    def encode(samples: np.ndarray, format: str, mode: str | None = None, **settings) -> bytes:
        file = io.BytesIO()
        image = Image.fromarray(samples) if mode is None else Image.frombytes(mode, samples.shape[1::-1], samples)
        image.save(file, format, **settings)
        return file.getvalue()

    return encode
