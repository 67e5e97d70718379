"""The datasets that training draws from, keyed by `Draw`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .checking import Alone, Checked
from .layouts import find_photos
from .sampling import Draw
from .sources import Source
from .store import Pixels, Store
from .window import Crop

CACHE = 2 * 2**30


class HazePairs(Dataset[dict[str, Tensor]]):
    """Hazy crops and their clear ones: dataset[Draw] -> {"hazy", "clear"}, each float32 (3, size, size) in [0, 1].

    Source, scene, crop, turn and haze of a sample come from a generator keyed by (seed, step, sample).

    Args:
        sources: drawn from in proportion to their weights.
        seed: of all randomness.
        cache: bytes for decoded pictures and solved depth, in each process that draws.

    Raises:
        ValueError: for a source without pictures, and weights that are not positive. When drawing: for a file that
            cannot be read or does not fit its partner, in one line that names it.
    """

    def __init__(self, sources: Sequence[Source], *, seed: int = 0, cache: int = CACHE) -> None:
        if not sources or any(not source.weight > 0 for source in sources):
            raise ValueError(f"weights {[source.weight for source in sources]}; at least one, all above 0 expected")
        weights = np.array([source.weight for source in sources])
        self.shares = weights / weights.sum()
        self.scenes = [source.scenes() for source in sources]
        self.seed, self.store = seed, Store(cache)

    def to_check(self) -> Sequence[Checked]:
        """All that it draws from."""
        return [scene for scenes in self.scenes for scene in scenes]

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        rng = generator(self.seed, draw)
        scenes = self.scenes[int(rng.choice(len(self.scenes), p=self.shares))]
        sample = scenes[int(rng.integers(len(scenes)))].sample(self.store, rng, Crop(draw.size))
        turns = int(rng.integers(8))
        return {"hazy": to_tensor(turned(sample.hazy, turns)), "clear": to_tensor(turned(sample.clear, turns))}


class SharpCrops(Dataset[dict[str, Tensor]]):
    """Crops of photographs: dataset[Draw] -> {"clear": float32 (3, size, size) in [0, 1]}; for the teacher.

    Args:
        folders: photographs lie in them or in their subfolders; all are drawn alike.
        seed: of all randomness, with the step and the sample's number.
        cache: bytes for decoded pictures, in each process that draws.

    Raises:
        ValueError: for a folder without pictures; when drawing, for a file that cannot be read.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]], *, seed: int = 0, cache: int = CACHE) -> None:
        self.photos = [path for folder in folders for path in find_photos(folder)]
        if not self.photos:
            raise ValueError("no folders given; name at least one with photographs")
        self.seed, self.store = seed, Store(cache)

    def to_check(self) -> Sequence[Checked]:
        """All that it draws from."""
        return [Alone(path) for path in self.photos]

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        rng = generator(self.seed, draw)
        path = self.photos[int(rng.integers(len(self.photos)))]
        view = Crop(draw.size)
        picture = self.store.picture(path, view.reduction(rng, *self.store.size(path)))
        crop = view.window(rng, *picture.shape[:2], resample=False).cut(picture)  # enlarged ones would not be sharp
        return {"clear": to_tensor(turned(crop, int(rng.integers(8))))}


def generator(seed: int, draw: Draw) -> np.random.Generator:
    """All randomness of a draw."""
    return np.random.default_rng([seed, draw.step, draw.sample])


def turned(picture: Pixels, turns: int) -> Pixels:
    """One of the eight turns and reflections of a square."""
    return np.rot90(picture[:, ::-1] if turns & 4 else picture, turns & 3)


def to_tensor(picture: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()).float().div_(255)
