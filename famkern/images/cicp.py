"""Colour spaces that a file names by two numbers (ITU-T H.273) instead of an ICC profile: AVIF, HEIF and PNG can."""

from __future__ import annotations

from functools import lru_cache

import imagecodecs
import numpy as np

D65, DCI_WHITE = (0.3127, 0.3290), (0.314, 0.351)

# White, then red, green and blue, in x and y of CIE 1931.
PRIMARIES = {
    1: (D65, (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)),  # BT.709, which is sRGB's
    5: (D65, (0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),  # BT.601 of 625 lines
    6: (D65, (0.63, 0.34, 0.31, 0.595, 0.155, 0.07)),  # BT.601 of 525 lines
    7: (D65, (0.63, 0.34, 0.31, 0.595, 0.155, 0.07)),  # SMPTE 240M
    9: (D65, (0.708, 0.292, 0.17, 0.797, 0.131, 0.046)),  # BT.2020
    11: (DCI_WHITE, (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)),  # DCI-P3
    12: (D65, (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)),  # Display P3
    22: (D65, (0.63, 0.34, 0.295, 0.605, 0.155, 0.077)),  # EBU Tech 3213
}
UNSPECIFIED = 2
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
# sRGB's, and those of video, which photographs name and are shown with sRGB's: viewers know no other practice.
LIKE_SRGB = (1, 6, 13, 14, 15, UNSPECIFIED)
HDR = {16: "PQ", 18: "HLG"}
TABLE = 1024  # entries of a tone curve


@lru_cache(maxsize=16)
def profile(primaries: int, transfer: int) -> bytes | None:
    """The ICC profile of colours with these primaries and this transfer function; None for sRGB and for unknown numbers.

    Raises:
        ValueError: for the tone curve of HDR, whose white is not that of a picture on paper or an ordinary screen.
    """
    if transfer in HDR:
        raise ValueError(hdr(transfer))
    like_srgb = transfer in LIKE_SRGB
    if primaries == UNSPECIFIED:
        primaries = 1
    if primaries not in PRIMARIES or not (like_srgb or transfer in GAMMAS) or (primaries == 1 and like_srgb):
        return None
    white, colours = PRIMARIES[primaries]
    curve = {"transferfunction": _srgb_curve()} if like_srgb else {"gamma": GAMMAS[transfer]}
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=colours, **curve))


def hdr(transfer: int) -> str:
    """What to say of a picture with this one of HDR's tone curves."""
    return f"the tone curve of HDR, {HDR[transfer]}: its numbers are taken for those of sRGB"


def _srgb_curve() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    value = np.linspace(0, 1, TABLE)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)
