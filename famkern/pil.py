"""PIL images as arrays, and back.

    picture = split(image)
    clear = picture.join(dehaze(picture.pixels))

Palettes become the colours that they stand for. Colours of another space than sRGB, as an ICC profile tells, are converted
to sRGB and back. Transparency stays as it is; what is transparent by its colour gets an alpha channel, since its colour
will be another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .images import ColourSpace

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "I;16", "I;16L", "I;16B")
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601, as Pillow's own conversion to grey
# Bytes a pixel that are held beside the array that is dehazed and its result: a PIL image gives its pixels as a copy, is
# converted into a copy, and becomes an image from one.
COPIED_BYTES = 14


@dataclass(frozen=True)
class Picture:
    """An image taken apart.

    pixels  (H, W, 3) uint8, or uint16 of an image of 16 bits; sRGB
    alpha   8-bit transparency, or None
    grey    whether the image has one channel of colour
    info    what Pillow knows of it beside its pixels
    space   the colours of the image, if they are not sRGB
    stored  the pixels as the image has them
    """

    pixels: np.ndarray
    alpha: Image.Image | None
    grey: bool
    info: dict[Any, Any]
    space: ColourSpace | None
    stored: np.ndarray

    @property
    def copied_bytes(self) -> int:
        """Bytes that are held beside the array that is dehazed and its result."""
        height, width = self.pixels.shape[:2]
        return COPIED_BYTES * height * width + (self.stored.nbytes if self.space else 0)

    def join(self, pixels: np.ndarray) -> Image.Image:
        """An image of these (H, W, 3) pixels, which it may change, and of everything else in this one."""
        if self.space:
            self.space.bring_back(pixels, self.stored, self.pixels)
        if self.grey:
            luma = np.empty(pixels.shape[:2], dtype=pixels.dtype)
            for before, after in zip(pixels, luma, strict=True):  # row by row: the products are floats
                after[:] = np.rint(before @ LUMA)
            pixels = luma
        image = Image.fromarray(pixels)
        if self.alpha is not None:
            image.putalpha(self.alpha)
        image.info = dict(self.info)
        return image


def split(image: Image.Image) -> Picture:
    """Take an image apart.

    Raises:
        ValueError: for an image without pixels or of a mode that is not one of MODES.
    """
    if image.mode not in MODES:
        raise ValueError(f"a PIL image has one of the modes {', '.join(MODES)}, not {image.mode}: use convert() first")
    if 0 in image.size:
        raise ValueError(f"a PIL image has at least one pixel, not {image.width} x {image.height}")
    info = {name: value for name, value in image.info.items() if name != "transparency"}
    if image.mode.startswith("I;16"):
        if "transparency" in image.info:
            raise ValueError(
                "a PIL image of 16 bits has no transparent colour: Pillow has no 16-bit image with alpha; "
                'delete its info["transparency"], or give it as a file to `famkern dehaze`, which keeps it'
            )
        grey = np.asarray(image).astype(np.uint16)
        return _picture(np.broadcast_to(grey[..., None], (*grey.shape, 3)), None, True, info)
    grey_mode = image.mode in ("L", "LA")
    has_alpha = image.has_transparency_data  # an alpha channel, a transparent colour, or a palette with alpha
    if has_alpha and image.mode not in ("RGBA", "LA"):
        image = image.convert("LA" if grey_mode else "RGBA")
    alpha = image.getchannel("A") if has_alpha else None
    return _picture(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), alpha, grey_mode, info)


def _picture(stored: np.ndarray, alpha: Image.Image | None, grey: bool, info: dict[Any, Any]) -> Picture:
    space, icc = None, info.get("icc_profile")
    if icc and not grey:
        from .images import colour_space  # brings every codec with it: only for the images that need it

        space = colour_space(icc)
    return Picture(space.to_srgb(stored) if space else stored, alpha, grey, info, space, stored)
