"""Arithmetic on samples: from inks to RGB, from RGB to grey, from one depth to another. All in bands of rows, so that
intermediate values in higher precision stay small."""

from __future__ import annotations

from collections.abc import Iterator

import imagecodecs
import numpy as np

from .picture import Depth, Samples

REC601 = np.array([0.299, 0.587, 0.114])
BAND_SAMPLES = 2**19


def bands(rows: int, samples_per_row: int, multiple: int = 1) -> Iterator[slice]:
    """Slices that cover `rows`, each a multiple of `multiple` rows and about BAND_SAMPLES samples, but the last."""
    step = max(1, BAND_SAMPLES // max(1, samples_per_row * multiple)) * multiple
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def peak(dtype: Depth) -> float:
    """The sample value that means white."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)  # type: ignore[type-var]


def luma(rgb: Samples) -> Samples:
    """(..., 3) -> (...): Rec.601 luma. Three equal channels give that channel exactly, once rounded to its dtype."""
    return rgb @ REC601


def requantised(values: Samples, source: Depth, target: Depth) -> Samples:
    """`values` on the scale of `source` as samples of `target`, integers rounded half to even."""
    if values.dtype == target:
        return values
    scaled = values.astype(np.float64) * (peak(target) / peak(source))
    return (np.rint(scaled) if target.kind == "u" else scaled).astype(target)


def stretched(values: Samples, bits: int) -> Samples:
    """uint16 samples of so many bits on the scale of 16."""
    result = np.empty_like(values)
    for rows in bands(values.shape[0], values.size // values.shape[0]):
        result[rows] = np.rint(values[rows] * (65535 / (2**bits - 1)))
    return result


def profile_kind(icc: bytes) -> str:
    """The kind of colours that an ICC profile describes: "RGB", "GRAY", "CMYK" or another; "" if it is damaged."""
    if not 132 <= int.from_bytes(icc[:4], "big") <= len(icc) or icc[36:40] != b"acsp":
        return ""
    try:
        imagecodecs.cms_profile_validate(icc)
    except imagecodecs.CmsError:
        return ""
    return icc[16:20].decode("latin-1").strip()


def describes_inks(icc: bytes) -> bool:
    """Whether colours of four inks can be converted by this ICC profile."""
    if profile_kind(icc) != "CMYK":
        return False
    try:
        inks_to_rgb(np.zeros((1, 1, 4), np.uint8), icc)
    except imagecodecs.CmsError:
        return False
    return True


def inks_to_rgb(inks: Samples, icc: bytes | None, *, inverted: bool = False) -> Samples:
    """(H, W, 4) CMYK, uint8 or uint16 -> (H, W, 3) sRGB of the same dtype.

    icc         the profile of the inks (perceptual intent); without one, a channel is (1 - ink)(1 - black)
    inverted    the samples are 0 for full ink
    """
    height, width = inks.shape[:2]
    rgb = np.empty((height, width, 3), inks.dtype)
    white = peak(inks.dtype)
    srgb = imagecodecs.cms_profile("srgb")
    for rows in bands(height, 4 * width):
        band = np.iinfo(inks.dtype).max - inks[rows] if inverted else np.ascontiguousarray(inks[rows])
        if icc:
            rgb[rows] = imagecodecs.cms_transform(band, icc, srgb, colorspace="cmyk", outcolorspace="rgb")
        else:
            light = 1 - band.astype(np.float32) / white
            rgb[rows] = np.rint(light[..., :3] * light[..., 3:] * white)
    return rgb
