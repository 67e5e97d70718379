"""Odd but valid files, as cameras, scanners, editors, phones and surveying programs write them: name to content."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec

import imagecodecs
import jxl_files
import numpy as np
import tifffile
from PIL import Image, ImageCms

SIZE = (31, 37)
U8, U16, F32 = np.uint8, np.uint16, np.float32


def corpus() -> dict[str, bytes]:
    """All of them."""
    return dict(itertools.chain(_jpegs(), _pngs(), _tiffs(), _others()))


def samples(channels: int = 3, dtype=U8) -> np.ndarray:
    """(H, W, channels), or (H, W) of one."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    white = 1 if dtype == F32 else np.iinfo(dtype).max
    planes = [(x / 40 + k / 9) % 1 * 0.6 + y / 90 for k in range(channels)]
    result = (np.stack(planes, -1) * white).astype(dtype)
    return result[..., 0] if channels == 1 else result


def encoded(image: np.ndarray | Image.Image, format: str, **settings) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **settings)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def inserted(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(image: np.ndarray, **settings) -> bytes:
    file = io.BytesIO()
    settings = {"photometric": "rgb" if image.ndim == 3 else "minisblack", "metadata": None} | settings
    tifffile.imwrite(file, image, **settings)
    return file.getvalue()


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
ADOBE = bytes(imagecodecs.cms_profile("adobergb"))
WIDE = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HIH", 42, 8, 1) + struct.pack(order + "HHIHHI", 274, 3, 1, orientation, 0, 0)


def dng(mosaic: np.ndarray, matrix: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> bytes:
    """(H, W) uint16 of a camera with a Bayer pattern; `matrix` takes XYZ to its colours."""
    tags = [
        (271, 2, 0, "Camera & Co", True),
        (33421, 3, 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, 1, 4, (0, 1, 1, 2), True),  # CFAPattern
        (50706, 1, 4, (1, 4, 0, 0), True),  # DNGVersion
        (50708, 2, 0, "Camera", True),
        (50717, 4, 1, 65535, True),  # WhiteLevel
        (50721, 10, 9, tuple(part for value in matrix for part in (round(1e4 * value), 10_000)), True),  # ColorMatrix1
        (50728, 5, 3, (1, 1, 1, 1, 1, 1), True),  # AsShotNeutral
        (50778, 3, 1, 21, True),  # D65
    ]
    file = io.BytesIO()
    tifffile.imwrite(file, mosaic, photometric="cfa", extratags=tags, metadata=None)
    return file.getvalue()


def _jpegs() -> Iterator[tuple[str, bytes]]:
    plain, grey = encoded(samples(), "JPEG"), encoded(samples(1), "JPEG")
    yield "baseline.jpg", plain
    yield "grey.JPG", grey
    yield "progressive.jpeg", encoded(samples(), "JPEG", progressive=True)
    yield "optimised.jpe", encoded(samples(), "JPEG", optimize=True, quality=1)
    for name in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        yield f"subsampled-{name.replace(':', '')}.jpg", encoded(samples(), "JPEG", subsampling=name)
    yield "restarts.jpg", encoded(samples(), "JPEG", restart_marker_blocks=1)
    yield "rgb.jpg", imagecodecs.jpeg8_encode(samples(), colorspace="RGB", outcolorspace="RGB")
    yield "cmyk.jpg", encoded(Image.fromarray(samples()).convert("CMYK"), "JPEG")
    yield "cmyk-junk-profile.jpg", encoded(Image.fromarray(samples()).convert("CMYK"), "JPEG", icc_profile=b"junk" * 50)
    yield "ycck.jpg", imagecodecs.jpeg8_encode(samples(4), colorspace="CMYK", outcolorspace="YCCK")
    yield "multi-picture.mpo.jpg", encoded(samples(), "MPO", save_all=True, append_images=[Image.fromarray(samples())])
    yield "film-behind.jpg", plain + b"\0\0\0\x18ftypmp42" + bytes(500)
    yield "second-picture-behind.jpg", plain + grey
    yield "fill-bytes.jpg", plain[:2] + b"\xff\xff\xff" + plain[2:]
    yield "no-jfif.jpg", plain[:2] + plain[20:]
    yield "density-0.jpg", inserted(plain, segment(0xE0, b"JFIF\0\1\1\1" + bytes(6)))
    yield "exif-6.jpg", inserted(plain, segment(0xE1, b"Exif\0\0" + exif(6)))
    yield "exif-8-big-endian.jpg", inserted(plain, segment(0xE1, b"Exif\0\0" + exif(8, ">")))
    yield "exif-99.jpg", inserted(plain, segment(0xE1, b"Exif\0\0" + exif(99)))
    yield "exif-empty.jpg", inserted(plain, segment(0xE1, b"Exif\0\0"))
    yield "exif-cut.jpg", inserted(plain, segment(0xE1, b"Exif\0\0" + exif(3)[:13]))
    yield "profile-lab.jpg", encoded(samples(), "JPEG", icc_profile=LAB)
    yield "profile-part-missing.jpg", inserted(plain, segment(0xE2, b"ICC_PROFILE\0\1\2" + SRGB[:99]))
    yield "profile-number-0.jpg", inserted(plain, segment(0xE2, b"ICC_PROFILE\0\0\0"))
    yield "xmp-junk.jpg", inserted(plain, segment(0xE1, XMP + b"<x hdrgm= http://ns.adobe.com/hdr-gain-map/1.0/"))
    yield "adobe-short.jpg", inserted(plain, segment(0xEE, b"Adobe"))
    yield "photoshop-junk.jpg", inserted(plain, segment(0xED, b"Photoshop 3.0\x008BIM\4\4"))
    yield "comments.jpg", inserted(plain, segment(0xFE, b""), segment(0xFE, b"\xff\xfe"), segment(0xFE, b"b" * 65533))


def _pngs() -> Iterator[tuple[str, bytes]]:
    plain = encoded(samples(), "PNG")
    after = 8 + 25  # the signature and IHDR
    yield "plain.PNG", plain
    for bits, mode in ((1, "1"), (8, "P"), (8, "LA"), (8, "RGBA")):
        yield f"{mode}-{bits}.png", encoded(Image.fromarray(samples()).convert(mode), "PNG")
    yield "16.png", imagecodecs.png_encode(samples(3, U16))
    yield "16-alpha.png", imagecodecs.png_encode(samples(4, U16))
    yield "transparent-colour.png", encoded(samples(), "PNG", transparency=(0, 0, 0))
    for name, body in (
        (b"iCCP", b"x\0\0junk"),
        (b"iCCP", b"x\0\0" + zlib.compress(LAB)),
        (b"iCCP", b"no end"),
        (b"gAMA", b"\0"),
        (b"pHYs", bytes(8) + b"\1"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0junk"),
        (b"eXIf", b"junk"),
        (b"tEXt", b""),
        (b"sBIT", b""),
        (b"zzZz", b"private"),
    ):
        label = name.decode() + "-" + hex(zlib.crc32(body))[2:6]
        yield f"{label}.png", plain[:after] + chunk(name, body) + plain[after:]
    yield "wrong-checksum-of-text.png", plain[:after] + chunk(b"tEXt", b"a\0b")[:-1] + b"\0" + plain[after:]
    yield "behind-the-end.png", plain + b"more" * 9
    yield "one-frame.png", plain[:after] + chunk(b"acTL", struct.pack(">II", 1, 0)) + plain[after:]


def _tiffs() -> Iterator[tuple[str, bytes]]:
    for dtype in (U8, U16, F32):
        yield f"{np.dtype(dtype).name}.tif", tiff(samples(3, dtype))
    yield "big-endian.TIFF", tiff(samples(3, U16), byteorder=">")
    yield "bigtiff.tif", tiff(samples(), bigtiff=True)
    yield "planar.tif", tiff(np.moveaxis(samples(), -1, 0), planarconfig="separate")
    yield "tiled.tif", tiff(samples(), tile=(16, 16), compression="zlib", predictor=True)
    for name in ("lzw", "packbits", "zstd", "jpeg"):
        yield f"{name}.tif", tiff(samples(), compression=name)
    yield "white-is-zero.tif", tiff(samples(1), photometric="miniswhite")
    yield "bilevel.tif", tiff(samples(1) > 99)
    yield "palette.tif", tiff(samples(1), photometric="palette", colormap=np.arange(768).reshape(3, 256).astype(U16))
    yield "cmyk.tif", tiff(samples(4), photometric="separated")
    yield "cmyk-junk-profile.tif", tiff(samples(4), photometric="separated", iccprofile=SRGB)
    yield "infrared.tif", tiff(samples(4), extrasamples=[0])
    yield "alpha-and-bands.tif", tiff(samples(6), planarconfig="contig", extrasamples=[2, 0, 0])
    yield "premultiplied.tif", tiff(samples(4), extrasamples=[1])
    yield "nodata.tif", tiff(samples(), extratags=[(42113, 2, 0, "0", True)])
    yield "nodata-junk.tif", tiff(samples(), extratags=[(42113, 2, 0, "none", True)])
    yield "description-junk.tif", tiff(samples(), description='{"shape": [1')
    yield "sideways.tif", tiff(samples(), extratags=[(274, 3, 1, 6, True)])
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(samples(), photometric="rgb", metadata=None)
        writer.write(samples()[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        writer.write(samples(1) > 50, photometric="mask", metadata=None, subfiletype=4)
    yield "overview-and-mask.tif", file.getvalue()


def _others() -> Iterator[tuple[str, bytes]]:
    yield "lossy.webp", encoded(samples(), "WEBP")
    yield "lossless.webp", encoded(samples(4), "WEBP", lossless=True)
    yield "junk-metadata.webp", encoded(samples(), "WEBP", exif=b"junk", icc_profile=b"junk", xmp=b"<")
    for mode in ("1", "L", "P", "RGB"):
        yield f"{mode}.bmp", encoded(Image.fromarray(samples()).convert(mode), "BMP")
    yield "8.avif", encoded(samples(), "AVIF")
    yield "10.avif", imagecodecs.avif_encode(samples(3, U16) >> 6, bitspersample=10)
    yield "alpha.avif", encoded(samples(4), "AVIF")
    yield "8.jxl", imagecodecs.jpegxl_encode(samples())
    yield "16-boxes.jxl", imagecodecs.jpegxl_encode(samples(4, U16), lossless=True, usecontainer=True)
    yield "profile.jxl", jxl_files.encode(samples(), ADOBE)
    yield "lossy-wide.jxl", jxl_files.encode(samples(3, U16), (jxl_files.BT2100, jxl_files.SRGB), lossless=False)
    yield "wide.avif", imagecodecs.avif_encode(samples(), primaries=12, transfer=13)
    if find_spec("pillow_heif"):
        import pillow_heif

        for name, settings in (
            ("phone.heic", {}),
            ("phone-profile.heic", {"icc_profile": ADOBE}),
            ("phone-wide.HIF", WIDE),
        ):
            file = io.BytesIO()
            pillow_heif.from_pillow(Image.fromarray(samples())).save(file, quality=90, **settings)
            yield name, file.getvalue()
    if find_spec("rawpy"):
        yield "raw.dng", dng(samples(1, U16))
    yield "jpeg-inside.png", encoded(samples(), "JPEG")  # the content counts
    yield "tiff-inside.jpg", tiff(samples())
