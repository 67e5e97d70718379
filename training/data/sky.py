"""Where the sky is in a photograph, as far as its colours tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .solving import fill
from .store import Pixels

Floats = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SIDE = 160  # of the map, on the longer side of the photograph
ROUGH = 0.06  # gradient from one pixel of the map to the next, above which nothing is sky
BRIGHT = 0.55  # luma of a grey sky
BLUE = (0.3, 0.08)  # luma of a blue sky, and by how much its blue exceeds its red
YELLOW, GREEN = 0.25, 0.04  # excess of red over blue, and of green over both, that no sky has
LEAST = 0.02  # part of the picture; less is not worth being called sky
CLEAR_CUT = 0.5  # part of its edge where something begins; otherwise it fades into what is sky too, or is none
UNLIKE = 0.08  # difference in colour from the sky around that makes a pixel half as likely to be sky


def find_sky(picture: Pixels) -> NDArray[np.uint8]:
    """(h, w, 4) uint8, small: the colour that the sky of a photograph has, or would have, and the place where it is.

    Sky is what is smooth, and bright or blue, and hangs together with the top of the picture. The place, 0 to 255,
    reaches a little beyond its edges, for `likeness` to find them by colour.
    """
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    rows, columns = (max(2, round(side * scale)) for side in picture.shape[:2])
    small = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX)).astype(np.float32) / 255
    luma, blue = small @ LUMA, small[..., 2] - small[..., 0]
    rough = np.maximum(*map(np.abs, np.gradient(luma))) > ROUGH
    green = small[..., 1] - small.max(2, where=np.array([True, False, True]), initial=0)
    like = ~rough & (blue > -YELLOW) & (green < GREEN) & ((luma > BRIGHT) | ((luma > BLUE[0]) & (blue > BLUE[1])))
    sky = np.zeros_like(like)
    sky[0] = like[0]
    while (grown := _beside(sky) & like).sum() > sky.sum():
        sky = grown
    edge = _beside(sky) & ~sky
    if sky.mean() < LEAST or (edge.any() and rough[edge].mean() < CLEAR_CUT):
        sky[:] = False
    weight = sky.astype(np.float32)
    colour = np.stack([fill(small[..., channel], weight, 1e-6) for channel in range(3)], 2)
    place = _beside(_beside(sky))
    return np.dstack([np.rint(colour * 255), place * 255]).clip(0, 255).astype(np.uint8)


def likeness(clear: Pixels, sky: NDArray[np.uint8], box: tuple[float, float, float, float]) -> Floats | None:
    """How much each pixel of a part of a photograph is sky, (H, W) in [0, 1]; None if nothing there is.

    Args:
        clear: (H, W, 3) uint8: the part.
        sky: what `find_sky` tells of the whole photograph.
        box: top, left, bottom, right of the part: 0 and 1 are the photograph's edges.
    """
    height, width = sky.shape[:2]
    top, left, bottom, right = box
    place = sky[
        int(top * height) : max(1, int(np.ceil(bottom * height))), int(left * width) : int(np.ceil(right * width)), 3
    ]
    if not place.any():
        return None
    size, edges = clear.shape[1::-1], (left * width, top * height, right * width, bottom * height)
    at, colour = (
        np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BILINEAR, box=edges))
        for part in (sky[..., 3], sky[..., :3])
    )
    unlike = clear.astype(np.float32) - colour
    unlike = np.einsum("hwc,hwc->hw", unlike, unlike) / (255 * UNLIKE) ** 2
    return at * np.float32(1 / 255) / (1 + unlike * unlike)


def _beside(mask: NDArray[Any]) -> NDArray[Any]:
    """The mask and its neighbours on four sides."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
