"""Hazy and clear pictures in files, for a person to look at or for `famkern evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from famkern import images

from .sources import Scene, Source
from .store import Store
from .window import Whole

CACHE = 256 * 2**20  # bytes: each view comes up again only after all the others


@dataclass(frozen=True)
class Outcome:
    """What became of one pair: written, there already (`skipped`), or the `problem`, in one line."""

    hazy: Path
    skipped: bool = False
    problem: str | None = None


def synthesize(
    source: Source, folder: Path, pairs: int, *, seed: int = 0, size: int = 1024, overwrite: bool = False
) -> Iterator[Outcome]:
    """Write `pairs` pairs of whole pictures as FOLDER/hazy/ID_number.png and FOLDER/clear/ID.png.

    FOLDER/transmission/ID_number.png, 16-bit grey, shows t, in green, from 0 to 65535, where it is known. All views of the
    source come once, in an order that depends on the seed, then all with number 2, and so on. Pair k depends on the seed
    and k alone. Pairs that are there are skipped unless `overwrite`.

    Args:
        source: where views and haze come from.
        folder: created.
        pairs: how many.
        seed: of all randomness.
        size: limit on the longer side, in pixels.
        overwrite: replace files.

    Yields:
        An Outcome for each pair, when it has ended; a pair that fails is reported and the others are done.
    """
    scenes, store, view = source.scenes(), Store(CACHE), Whole(size)
    names = _names(scenes)
    order = np.random.default_rng(seed).permutation(len(scenes))
    for index in range(pairs):
        name, number = names[order[index % len(scenes)]], index // len(scenes) + 1
        clear = folder / "clear" / f"{name}.png"
        hazy, transmission = (folder / kind / f"{name}_{number}.png" for kind in ("hazy", "transmission"))
        if not overwrite and hazy.exists() and clear.exists():
            yield Outcome(hazy, skipped=True)
            continue
        try:
            sample = scenes[order[index % len(scenes)]].sample(store, np.random.default_rng([seed, index]), view)
            if sample.transmission is not None:
                levels = np.rint(sample.transmission * 65535).astype(np.uint16)
                _write(transmission, images.Picture(np.repeat(levels[..., None], 3, 2), grey=True))
            _write(clear, images.Picture(np.ascontiguousarray(sample.clear)))
            _write(hazy, images.Picture(np.ascontiguousarray(sample.hazy)))
        except ValueError as error:  # names its file
            yield Outcome(hazy, problem=str(error))
        except OSError as error:
            yield Outcome(hazy, problem=f"{hazy}: {error.strerror or error}")
        else:
            yield Outcome(hazy)


def _write(path: Path, picture: images.Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, picture)


def _names(scenes: Sequence[Scene]) -> list[str]:
    """The stem of each scene's file, numbered where several would have the same.

    Without underscores, so that number 1 of view "a" is not taken for the view "a_1".
    """
    names: list[str] = []
    taken: set[str] = set()
    for scene in scenes:
        stem = scene.path.stem.replace("_", "-")
        candidates = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
        names.append(next(name for name in candidates if name not in taken))
        taken.add(names[-1])
    return names
