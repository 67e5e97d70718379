"""Where pairs of hazy and clear pictures come from. Each source is a folder, a weight, and for most the haze to add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import fields, objects, solving
from .borders import border, inside
from .checking import File, Sizes
from .haze import Floats, Haze
from .layouts import DepthPair, Pair, find_depths, find_disparity, find_pairs, find_photos
from .sky import find_sky, likeness, overcast, skyline
from .store import Pixels, Store, read, read_depth
from .window import View

SKY_IS_FAR = 0.5  # share of samples in which what looks like sky is; it may as well be a wall
ESTIMATED = 0.7  # share of samples of a photograph with estimated depth that take it
FAR_TO_NEAR = (5.0, 40.0)  # ratio of the farthest to the nearest depth of a photograph


class Sample(NamedTuple):
    """One view: hazy and clear (H, W, 3) uint8; transmission, in green, (H, W) in [0, 1], or None where it is not known."""

    hazy: Pixels
    clear: Pixels
    transmission: Floats | None


class Scene(Protocol):
    """One view of the world, from which samples are drawn."""

    @property
    def path(self) -> Path:
        """Of the file that the view is named after."""

    @property
    def files(self) -> Sequence[File]:
        """What samples are made of."""

    def check(self, size: Sizes) -> None:
        """Raise ValueError if the files, each of which can be read, do not fit one another."""

    def sample(self, store: Store, rng: np.random.Generator, view: View) -> Sample:
        """Draw one. Raises ValueError for a file that cannot be read or does not fit its partner."""


class Source(Protocol):
    """A folder of scenes, and how often to draw from it."""

    @property
    def weight(self) -> float:
        """Samples from it per sample from a source of weight 1."""

    def scenes(self) -> Sequence[Scene]:
        """All of its scenes; nothing is decoded for it. Raises ValueError if the folder has none, or not the layout."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a folder laid out as RESIDE's, used as they are; see `find_pairs`."""

    folder: str | Path
    weight: float = 1.0

    def scenes(self) -> Sequence[Scene]:
        """One for each hazy picture."""
        return [PairScene(pair) for pair in find_pairs(self.folder)]


@dataclass(frozen=True)
class Solved:
    """New haze for the views of such a folder: the depth of each is solved from all its hazy versions."""

    folder: str | Path
    weight: float = 1.0
    haze: Haze = field(default_factory=Haze.indoor)

    def scenes(self) -> Sequence[Scene]:
        """One for each clear picture."""
        pairs = sorted(find_pairs(self.folder), key=lambda pair: pair.clear)
        return [SolvedScene(clear, self.haze, tuple(group)) for clear, group in groupby(pairs, lambda pair: pair.clear)]


@dataclass(frozen=True)
class Depths:
    """Haze for pictures with depth; see `find_depths`.

    sky     the greatest value in each file of depth stands for infinity
    far     quantile of each file's depth that becomes 1; 1: the maximum, as RESIDE renders
    """

    folder: str | Path
    weight: float = 1.0
    haze: Haze = field(default_factory=Haze.outdoor)
    sky: bool = False
    far: float = solving.FAR_IN_FILES

    def scenes(self) -> Sequence[Scene]:
        """One for each file of depth."""
        pairs = find_depths(self.folder)
        return [DepthScene(pair.picture, self.haze, pair, self.sky, self.far, pairs) for pair in pairs]


@dataclass(frozen=True)
class Photos:
    """Haze for any photographs, with depth made up anew for each sample, or estimated where there are files of it.

    See `find_disparity` for these; of estimated inverse depth v only the order is known, so that each sample draws the
    ratio of its farthest depth to its nearest.
    """

    folder: str | Path
    weight: float = 1.0
    haze: Haze = field(default_factory=Haze.outdoor)

    def scenes(self) -> Sequence[Scene]:
        """One for each photograph in the folder and its subfolders."""
        photos = find_photos(self.folder)
        files = [find_disparity(self.folder, path) for path in photos]
        lenders = [file for file in files if file is not None]
        return [PhotoScene(path, self.haze, file, lenders) for path, file in zip(photos, files, strict=True)]


@dataclass(frozen=True)
class PairScene:
    """A hazy picture and its clear one, at their own scale."""

    pair: Pair

    @property
    def path(self) -> Path:
        """The hazy file."""
        return self.pair.hazy

    @property
    def files(self) -> Sequence[File]:
        """Both."""
        return [File(self.pair.hazy), File(self.pair.clear)]

    def check(self, size: Sizes) -> None:
        """One may be larger by a border."""
        border(self.pair.hazy, size(self.pair.hazy), self.pair.clear, size(self.pair.clear))

    def sample(self, store: Store, rng: np.random.Generator, view: View) -> Sample:
        """Part of both."""
        hazy, clear = store.picture(self.pair.hazy), store.picture(self.pair.clear)
        more = border(self.pair.hazy, hazy.shape, self.pair.clear, clear.shape)
        hazy, clear = hazy[inside(-more), inside(-more)], clear[inside(more), inside(more)]
        window = view.window(rng, *clear.shape[:2], resample=False)
        return Sample(window.cut(hazy), window.cut(clear), None)


@dataclass(frozen=True)
class _KnownDepth(ABC):
    """A clear picture whose depth is known."""

    path: Path
    haze: Haze

    def sample(self, store: Store, rng: np.random.Generator, view: View) -> Sample:
        """Haze on part of it, added before the part is resampled, as a camera's picture is hazy before it is reduced."""
        picture = self.picture(store)
        window = view.window(rng, *picture.shape[:2], resample=True)
        clear, depth = view.tone(rng, window.part(picture)), window.part(self.depth(store, rng)).astype(np.float32)
        hazy, transmission = self.haze.add(clear, depth, rng)
        if transmission.shape != (window.rows, window.columns):
            transmission = fields.resized(transmission, window.rows, window.columns, Image.Resampling.BILINEAR)
        return Sample(window.shown(hazy), window.shown(clear), transmission)

    def picture(self, store: Store) -> Pixels:
        """(H, W, 3): the part of the clear picture whose depth is known."""
        return store.picture(self.path)

    @abstractmethod
    def depth(self, store: Store, rng: np.random.Generator) -> NDArray[np.float16]:
        """(H, W): relative, infinite for sky; of another picture where the haze says so and there are others."""


@dataclass(frozen=True)
class SolvedScene(_KnownDepth):
    """A clear picture and its hazy versions."""

    pairs: tuple[Pair, ...]

    @property
    def files(self) -> Sequence[File]:
        """All of them."""
        return [File(self.path), *(File(pair.hazy) for pair in self.pairs)]

    def check(self, size: Sizes) -> None:
        """They may be larger and smaller by borders."""
        self._borders(size)

    def depth(self, store: Store, rng: np.random.Generator) -> NDArray[np.float16]:
        """Solved when first needed."""
        return store.get(("depth", self.path), lambda: self._solve(store))

    def picture(self, store: Store) -> Pixels:
        """Without the border that hazy versions lack."""
        part = inside(max(self._borders(store.size)))
        return store.picture(self.path)[part, part]

    def _borders(self, size: Sizes) -> list[int]:
        """Of the clear picture beside each version."""
        return [border(pair.hazy, size(pair.hazy), self.path, size(self.path)) for pair in self.pairs]

    def _solve(self, store: Store) -> NDArray[np.float16]:
        borders = self._borders(store.size)
        part = inside(max(borders))
        clear, versions = read(self.path)[part, part], []
        for pair, own in zip(self.pairs, borders, strict=True):
            part = inside(max(*borders, 0) - own)
            versions.append((read(pair.hazy)[part, part], pair.airlight))
        return solving.solve_depth(clear, versions)[0].astype(np.float16)


@dataclass(frozen=True)
class DepthScene(_KnownDepth):
    """A picture with a file of depth."""

    pair: DepthPair
    sky: bool
    far: float
    lenders: Sequence[DepthPair]  # whose depth may stand for its own

    @property
    def files(self) -> Sequence[File]:
        """The picture and its depth; those of lenders belong to their own scenes."""
        return [File(self.path), File(self.pair.depth, depth=True)]

    def check(self, size: Sizes) -> None:
        """Depth may be at another scale, or have a border more or less."""
        _border_of_depth(self.pair, size(self.pair.picture), size(self.pair.depth))

    def depth(self, store: Store, rng: np.random.Generator) -> NDArray[np.float16]:
        """Read when first needed; depth at another scale than the picture's is taken from the nearest pixel."""
        pair = self.pair
        if self.haze.foreign and rng.random() < self.haze.foreign:
            pair = self.lenders[int(rng.integers(len(self.lenders)))]
        depth = store.get(("depth", pair.depth), lambda: self._read(pair, store.size(pair.picture)))
        size = store.size(self.path)
        if depth.shape != size:
            depth = fields.resized(depth.astype(np.float32), *size, Image.Resampling.NEAREST).astype(np.float16)
        return depth

    def _read(self, pair: DepthPair, size: tuple[int, int]) -> NDArray[np.float16]:
        values = read_depth(pair.depth)
        more = _border_of_depth(pair, size, values.shape)
        values = np.pad(values[inside(more), inside(more)], max(-more, 0))  # 0 is unknown depth, to be filled
        try:
            depth = solving.relative_depth(values, disparity=pair.disparity, sky=self.sky, far=self.far)
        except ValueError as error:
            raise ValueError(f"{pair.depth}: {error}; remove it") from error
        return depth.astype(np.float16)


@dataclass(frozen=True)
class PhotoScene:
    """A photograph, and where there is one, a file with its estimated inverse depth.

    lenders  such files of all photographs, which may stand for its own
    """

    path: Path
    haze: Haze
    disparity: Path | None = None
    lenders: Sequence[Path] = ()

    @property
    def files(self) -> Sequence[File]:
        """The photograph, and what is estimated of it."""
        return [File(self.path), *([File(self.disparity, depth=True)] if self.disparity else [])]

    def check(self, size: Sizes) -> None:
        """Estimates may be of any size."""

    def sample(self, store: Store, rng: np.random.Generator, view: View) -> Sample:
        """Haze on part of it, at any of several resolutions."""
        picture = store.picture(self.path, view.reduction(rng, *store.size(self.path)))
        window = view.window(rng, *picture.shape[:2], resample=True)
        clear, box = window.cut(picture), window.box(*picture.shape[:2])
        if self.disparity is not None and rng.random() < ESTIMATED:
            depth = self._estimated(store, rng, clear, box)
        else:
            depth = fields.pseudo_depth(rng, clear, box[0], box[2])
        if rng.random() < SKY_IS_FAR:
            sky = likeness(clear, store.get(("sky", self.path), lambda: find_sky(store.picture(self.path))), box)
            if sky is not None:
                depth = depth + sky * np.float32(rng.uniform(*self.haze.sky))
        clear = view.tone(rng, clear)
        airlight = None
        if view.varied and rng.random() < self.haze.overcast:
            place = skyline(rng, clear.shape[0], clear.shape[1], box[0], box[2])
            clear, airlight = overcast(rng, clear, place)
            depth = depth * (1 - place)
        if view.varied and rng.random() < self.haze.objects:
            clear, depth = objects.draw(rng, clear, depth)
        hazy, transmission = self.haze.add(clear, depth, rng, airlight)
        return Sample(hazy, clear, transmission)

    def _estimated(
        self, store: Store, rng: np.random.Generator, clear: Pixels, box: tuple[float, float, float, float]
    ) -> Floats:
        """Depth of the part in this box, (H, W), 1 at the farthest: z / far = 1 / (v (far / near - 1) + 1)."""
        assert self.disparity is not None
        path = self.disparity
        if rng.random() < self.haze.foreign:
            path = self.lenders[int(rng.integers(len(self.lenders)))]
        inverse = store.get(("disparity", path), lambda: read_depth(path).astype(np.float16))  # 1 to 255
        height, width = inverse.shape
        edges = (box[1] * width, box[0] * height, box[3] * width, box[2] * height)
        picture = Image.fromarray(inverse.astype(np.float32))
        part = np.asarray(picture.resize(clear.shape[1::-1], Image.Resampling.BILINEAR, box=edges))
        ratio = float(np.exp(rng.uniform(*np.log(FAR_TO_NEAR))))
        return 1 / ((part - 1).clip(0) / 254 * np.float32(ratio - 1) + 1)


def _border_of_depth(pair: DepthPair, size: tuple[int, int], depth: Sequence[int]) -> int:
    """What depth has more than its picture, see `border`; nothing where both have one shape, at whatever scale."""
    if abs(depth[0] * size[1] - depth[1] * size[0]) <= max(*size, *depth):  # to the pixel
        return 0
    return -border(pair.depth, depth, pair.picture, size)
