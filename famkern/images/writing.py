"""write(): from a Picture to a file, which is there whole or not at all."""

from __future__ import annotations

import math
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import avif, bmp, colour, jpeg, png, tiff, webp, xmp
from .files import replacing
from .picture import SUFFIXES, WORKSPACE_BYTES, Depth, Metadata, Picture, Samples, Unfit, array_bytes, fault

U8, U16, F32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)

# Depths that each format holds.
DEPTHS = {"JPEG": (U8,), "PNG": (U8, U16), "WEBP": (U8,), "TIFF": (U8, U16, F32), "BMP": (U8,), "AVIF": (U8,)}
HOLD_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF")
HOLD_GREY = ("JPEG", "PNG", "TIFF", "BMP")
MAX_SIDES = {"JPEG": jpeg.MAX_SIDE, "PNG": png.MAX_SIDE, "WEBP": webp.MAX_SIDE, "AVIF": avif.MAX_SIDE}
CODECS = {"JPEG": jpeg, "PNG": png, "WEBP": webp, "TIFF": tiff, "BMP": bmp, "AVIF": avif}

QUALITY = 95


def write(
    path: str | PathLike[str], picture: Picture, *, format: str | None = None, quality: int | None = None
) -> None:
    """Write `picture` to `path`.

    format      "JPEG", "PNG", "WEBP", "TIFF", "BMP" or "AVIF", or a suffix such as "jpg"; None: by the suffix of `path`
    quality     1..100, for JPEG and AVIF (4:4:4) and WebP; others lose nothing and ignore it. None: 95, but a lossless
                WebP that was read stays lossless

    The file keeps what the format can hold:
        depth       PNG uint8 and uint16; TIFF these and float32; others uint8. More is rounded, half to even, to the
                    deepest that the format has
        grey        Rec.601 luma of the pixels; WebP and AVIF get it three times
        bands, mask TIFF. Others: ImageError
        alpha       PNG, TIFF, AVIF, WebP (which drops an alpha that is opaque everywhere). JPEG, BMP: ImageError
        metadata    JPEG all but chunks; PNG all but photoshop; TIFF all but comment and chunks, and of EXIF's main
                    directory the descriptive tags; WebP and AVIF exif, icc and xmp; BMP dpi

    The file appears at once and whole: it is written beside `path` under another name and then moved. If that fails, or
    is interrupted, what was at `path` is still there and nothing else. The permissions are those of any new file.

    Raises ImageError if the format is not known or cannot hold the picture or its metadata, and if the file cannot be
    written, with the system's reason. Raises ValueError for a quality, or float pixels, out of range.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; 1 to 100 is accepted")
    format = _format(path, format)
    height, width = picture.pixels.shape[:2]
    bands, masked = picture.bands, picture.valid is not None and picture.nodata is None
    check_fits(
        path,
        format,
        width,
        height,
        alpha=picture.alpha is not None,
        metadata=picture.metadata,
        bands=len(bands.kinds) if bands else 0,
        masked=masked,
    )
    if picture.pixels.dtype == F32:
        _check_range(picture.pixels, picture.valid)
    metadata = _metadata(picture, format)
    # A TIFF's are made a row of tiles at a time.
    samples: Any = None if format == "TIFF" else _samples(picture, format, slice(0, height))
    with replacing(path) as file:
        try:
            if format == "JPEG":
                jpeg.encode(file, samples, metadata, quality=quality or QUALITY)
            elif format == "AVIF":
                avif.encode(file, samples, metadata, quality=quality or QUALITY)
            elif format == "WEBP":
                lossless = quality is None and picture.lossless and picture.format == "WEBP"
                webp.encode(file, samples, metadata, quality=quality or QUALITY, lossless=lossless)
            elif format == "TIFF":
                kinds = (() if picture.alpha is None else (tiff.UNASSOCIATED,)) + (bands.kinds if bands else ())
                colours = 1 if picture.grey else 3
                channels = colours + len(kinds)
                tiff.encode(
                    file,
                    lambda rows: _samples(picture, format, rows),
                    (height, width) if channels == 1 else (height, width, channels),
                    picture.pixels.dtype,
                    metadata,
                    colours=colours,
                    kinds=kinds,
                    valid=picture.valid if masked else None,
                )
            else:
                {"PNG": png, "BMP": bmp}[format].encode(file, samples, metadata)
        except Unfit as error:
            raise fault(path, str(error)) from error
        except MemoryError:
            raise
        # Whatever a codec does not like, most likely in the metadata; the system's own errors are told as such below.
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise
            problem = f"cannot be written as {format} ({type(error).__name__}: {error}); write another format"
            raise fault(path, problem) from error


def check_fits(
    path: str | PathLike[str],
    format: str,
    width: int,
    height: int,
    *,
    alpha: bool,
    metadata: Metadata,
    bands: int = 0,
    masked: bool = False,
) -> None:
    """Raise the ImageError that write() to `path` would for a picture like this, whatever its pixels."""
    format = _format(path, format)
    if bands and format != "TIFF":
        raise fault(path, f"{format} holds no bands beside colours and transparency; write TIFF instead")
    if masked and format != "TIFF":
        raise fault(path, f"{format} holds no mask of valid pixels; write TIFF instead")
    if alpha and format not in HOLD_ALPHA:
        raise fault(path, f"{format} holds no transparency; write PNG, TIFF or WEBP instead")
    if max(height, width) > MAX_SIDES.get(format, max(height, width)):
        raise fault(
            path, f"{width} x {height} pixels; {format} ends at {MAX_SIDES[format]:,} a side; write TIFF instead"
        )
    if format == "JPEG":
        try:
            jpeg.check_metadata(metadata)
        except Unfit as error:
            raise fault(path, str(error)) from error


def write_bytes(width: int, height: int, channels: int, dtype: Depth, format: str, *, bands: int = 0) -> int:
    """Upper bound of what write() needs at its peak, the Picture not included; see `Header.write_bytes`."""
    format = _format("", format)
    pixels = width * (min(height, tiff.TILE) if format == "TIFF" else height)  # that the codec gets at a time
    target = _depth(dtype, format)
    written = {1: 3, 2: 4}.get(channels, channels) if format not in HOLD_GREY else channels
    written += bands
    samples = 0
    if channels + bands != 3 or dtype != target:  # made anew, some at a time in double precision
        samples = array_bytes(pixels, written, target) + 8 * min(3 * pixels, colour.BAND_SAMPLES)
    return WORKSPACE_BYTES + samples + CODECS[format].encode_bytes(pixels, written, target)


def _format(path: str | PathLike[str], format: str | None) -> str:
    wanted = Path(path).suffix if format is None else format
    name = SUFFIXES.get("." + wanted.lower().lstrip("."), wanted.upper())
    if name not in DEPTHS:
        raise fault(path, f"{wanted or 'no suffix'!r} names no format that can be written; use {', '.join(DEPTHS)}")
    return name


def _depth(dtype: Depth, format: str) -> Depth:
    return dtype if dtype in DEPTHS[format] else DEPTHS[format][-1]


def _samples(picture: Picture, format: str, rows: slice) -> Samples:
    """What the codec gets of these rows: (H, W), or (H, W, 2..4) with alpha last, in a depth that the format holds."""
    pixels, further = picture.pixels[rows], picture.bands
    alpha = None if picture.alpha is None else picture.alpha[rows]
    source, target = pixels.dtype, _depth(pixels.dtype, format)
    height, width = pixels.shape[:2]
    if source == target and not picture.grey and alpha is None and further is None:
        return pixels
    if source != target and source == F32 and alpha is not None:
        _check_range(alpha)
    colours = 1 if picture.grey and format in HOLD_GREY else 3
    opaque = alpha is None
    samples = np.empty((height * width, colours + (not opaque) + (len(further.kinds) if further else 0)), target)
    if further:  # of a TIFF into a TIFF, and so of the same depth
        samples[:, colours + (not opaque) :] = further.samples[rows].reshape(height * width, -1)
    # Pixels in a row, whatever the width, so that the intermediate values are few even if the picture is one long line.
    line, alphas = pixels.reshape(-1, 3), None if alpha is None else alpha.reshape(-1)
    for part in colour.bands(height * width, 3):
        values = line[part]
        if picture.valid is not None and source == F32 and target != F32:
            values = np.nan_to_num(values).clip(0, 1)  # what stands for no data may be anything
        if picture.grey:
            values = colour.luma(values)[:, None]
        samples[part, :colours] = colour.requantised(values, source, target)
        if alphas is not None:
            samples[part, colours] = colour.requantised(alphas[part], source, target)
    return samples.reshape((height, width) if samples.shape[1] == 1 else (height, width, -1))


def _metadata(picture: Picture, format: str) -> Metadata:
    """What the codec gets: no extension of XMP that it has no place for, and no profile of grey for three channels."""
    metadata = picture.metadata
    if metadata.xmp and metadata.extended_xmp and format != "JPEG":
        metadata = replace(metadata, xmp=xmp.alone(metadata.xmp, extended=False), extended_xmp=None)
    three = not (picture.grey and format in HOLD_GREY)
    if metadata.icc and three and colour.profile_kind(metadata.icc) == "GRAY":
        metadata = replace(metadata, icc=None)
    return metadata


def _check_range(samples: Samples, valid: NDArray[np.bool_] | None = None) -> None:
    for rows in colour.bands(samples.shape[0], math.prod(samples.shape[1:])):
        band, where = samples[rows], True if valid is None else valid[rows][..., None]
        low, high = band.min(where=where, initial=1), band.max(where=where, initial=0)
        if not (low >= 0 and high <= 1):  # also where they are not numbers
            raise ValueError(f"float samples lie in [{low:g}, {high:g}]; finite and in [0, 1] is accepted")
