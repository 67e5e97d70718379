"""Small pictures for the tests of training data."""

import numpy as np
from PIL import Image


def photo(seed=0, size=(60, 48)):
    """(H, W, 3) uint8 of `size` (width, height): smooth colours with a little texture, none of them white."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 200, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return (np.asarray(coarse).astype(int) + rng.integers(-8, 9, (size[1], size[0], 3))).clip(0, 220).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def slope(height, width):
    """(H, W) in 0.1 .. 1: depth that falls to the right, with a step in the middle."""
    depth = np.linspace(1, 0.3, width)[None] * np.ones((height, 1))
    depth[height // 2 :] -= 0.2
    return depth.astype(np.float32)


def hazed(clear, depth, beta, airlight=1.0):
    """(H, W, 3) uint8 by the haze model."""
    t = np.exp(-beta * depth)[..., None]
    return np.rint(clear * t + 255 * airlight * (1 - t)).astype(np.uint8)


def reside(folder, scenes=2, levels=(1, 4, 7), size=(60, 48)):
    """A folder as RESIDE's: ID_level.png with beta = 0.5 + 0.1 level."""
    for scene in range(scenes):
        clear = photo(scene, size)
        save(folder / "clear" / f"{1400 + scene}.png", clear)
        for level in levels:
            hazy = hazed(clear, slope(size[1], size[0]), 0.5 + 0.1 * level)
            save(folder / "hazy" / f"{1400 + scene}_{level}.png", hazy)
    return folder
