"""Where the sky is in a photograph, as far as its colours tell; and grey skies for photographs that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import fields
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
GREY = (0.4, 1.0)  # brightness of an overcast sky
TINT = 0.03  # standard deviation of its channels from that
SHADE = 0.12  # largest relative change of its brightness over the picture


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


def skyline(rng: np.random.Generator, rows: int, columns: int, top: float, bottom: float) -> Floats:
    """How much each pixel is above a made-up skyline, (rows, columns) in [0, 1]: houses or hills, sharp or in fog.

    Args:
        rng: where all randomness comes from.
        rows, columns: of a part of a photograph.
        top, bottom: where it lies: 0 is the photograph's top, 1 its bottom.
    """
    u = np.linspace(-1, 1, columns, dtype=np.float32)
    hills = fields.smooth(rng, 1, columns)[0] if columns > 1 else np.zeros(1, np.float32)
    houses = rng.uniform(-1, 1, 16).astype(np.float32)[((u + 1) * rng.uniform(1, 7.5)).astype(int)]
    share = np.float32(rng.random())
    horizon = np.float32(rng.uniform(0.1, 0.9)) + np.float32(rng.uniform(0, 0.2)) * (
        share * hills + (1 - share) * houses
    )
    v = top + (bottom - top) * (np.arange(rows, dtype=np.float32)[:, None] + 0.5) / rows
    width = (bottom - top) / rows * np.exp(rng.uniform(np.log(0.3), np.log(20)))
    return np.clip((horizon - v) / np.float32(width) + 0.5, 0, 1).astype(np.float32)


def overcast(rng: np.random.Generator, clear: Pixels, place: Floats) -> tuple[Pixels, Floats]:
    """A photograph (H, W, 3) uint8 with a smooth grey sky in this place, and the airlight (3,) that fits it.

    Under such a sky the airlight has the sky's colour, so that haze hides where one ends: what has no texture there is sky,
    not something dark behind haze.
    """
    airlight = (rng.uniform(*GREY) + rng.normal(0, TINT, 3)).clip(0, 1).astype(np.float32)
    shade = 1 + np.float32(rng.uniform(0, SHADE)) * fields.smooth(rng, place.shape[0], place.shape[1], waves=(2, 3))
    sky = (255 * airlight * shade[..., None]).clip(0, 255)
    painted = clear + place[..., None] * (sky - clear.astype(np.float32))
    return np.rint(painted).clip(0, 255).astype(np.uint8), airlight


def _beside(mask: NDArray[Any]) -> NDArray[Any]:
    """The mask and its neighbours on four sides."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
