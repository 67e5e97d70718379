"""ColourSpace: pictures of another colour space than sRGB, such as Adobe RGB, Display P3 or ProPhoto RGB.

The networks were trained on sRGB. The same numbers mean paler colours there than in a wider space, and other lightness
under another tone curve: dehazing them as they are costs 0.2 to 2 dB with `student` and 1.9 to 5 dB with `student-indoor`.
So the network sees the picture converted to sRGB, and its result is converted back.
"""

from __future__ import annotations

from functools import lru_cache

import imagecodecs
import numpy as np

from .colour import bands, peak, profile_kind
from .picture import Empty, Samples

RELATIVE = 1  # colorimetric intent: white stays white
LATTICE = 9  # levels of each colour at which a profile is compared with sRGB
TOLERANCE = 3 / 255  # profiles of sRGB differ by less among themselves


class ColourSpace:
    """The space that an ICC profile describes, and the way to sRGB and back.

    seen = space.to_srgb(hazy)
    clear = dehazer(seen)
    space.bring_back(clear, hazy, seen)     # in place
    """

    def __init__(self, icc: bytes) -> None:
        self._icc = icc

    def to_srgb(self, pixels: Samples, empty: Empty = np.empty) -> Samples:
        """(H, W, 3) of this space -> sRGB of the same dtype; colours that sRGB lacks become the nearest that it has.

        The result is an array that `empty` makes, see `read`.
        """
        result: Samples = empty(pixels.shape, pixels.dtype)
        for rows in bands(len(pixels), 3 * pixels.shape[1]):
            result[rows] = _transformed(pixels[rows], self._icc, _srgb())
        return result

    def bring_back(self, clear: Samples, hazy: Samples, seen: Samples) -> None:
        """Convert `clear`, (H, W, 3) in sRGB, to this space in place.

        What `hazy` lost on its way to sRGB, of rounding or of colours that sRGB lacks, is added: seen brought back is hazy.

        Args:
            clear: what the network made of `seen`.
            hazy: the picture as it was.
            seen: to_srgb(hazy).
        """
        white = peak(clear.dtype)
        for rows in bands(len(clear), 3 * clear.shape[1]):
            lost = hazy[rows].astype(np.float32) - _transformed(seen[rows], _srgb(), self._icc)
            clear[rows] = (_transformed(clear[rows], _srgb(), self._icc) + lost).clip(0, white)


@lru_cache(maxsize=16)
def colour_space(icc: bytes | None) -> ColourSpace | None:
    """The space of a picture with this profile; None where its numbers are sRGB or nearly so.

    None too without a profile, for one of grey, and for one that does not lead back, as a scanner's may not.
    """
    if not icc or profile_kind(icc) != "RGB":
        return None
    levels = np.linspace(0, 65535, LATTICE).astype(np.uint16)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    try:
        seen = _transformed(colours, icc, _srgb())
        _transformed(seen, _srgb(), icc)
    except imagecodecs.CmsError:
        return None
    near = np.abs(seen.astype(np.float64) - colours).max() <= TOLERANCE * 65535
    return None if near else ColourSpace(icc)


@lru_cache(maxsize=1)
def _srgb() -> bytes:
    return bytes(imagecodecs.cms_profile("srgb"))


def _transformed(pixels: Samples, source: bytes, target: bytes) -> Samples:
    result = imagecodecs.cms_transform(pixels, source, target, colorspace="rgb", outcolorspace="rgb", intent=RELATIVE)
    return result.clip(0, 1) if pixels.dtype.kind == "f" else result
