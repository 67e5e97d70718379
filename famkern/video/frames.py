"""Frames in, clear frames out, without flicker: from a camera, or from a film."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ..dehazer import Dehazer

WEIGHT = 0.1  # of a frame in the averages of what came before

GRID = 16  # cells each way of the small picture by which cuts are told
CELL_SAMPLES = 8  # of its pixels along each side of a cell, at least where there are so many
SMALLEST_SPREAD = 0.02  # of values in 0..1; noise is less than half of it, also in fog
CUT = 0.6

THUMBNAIL = "thumbnail"  # its name in the state, beside those of maps


class FrameDehazer:
    """Removes haze from one frame after another.

    Channel attention works with means over a picture. A frame for itself, what passes by changes them, and so the
    brightness of everything: a film flickers. Here they are exponential averages over the frames since the last cut.

    Args:
        dehazer: does the work.
        weight: 0 < weight <= 1, of a frame in the averages. 1: each frame for itself.
        state: `state` of another one, to go on where it stood: the same bits as from the beginning.

    Attributes:
        state: tensors by name: the averages, and a small copy of the frame before.
    """

    def __init__(self, dehazer: Dehazer, weight: float = WEIGHT, state: Mapping[str, Tensor] | None = None) -> None:
        self.dehazer, self.weight = dehazer, weight
        self.state: dict[str, Tensor] = dict(state or {})

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The clear frame; see `Dehazer.frame`."""
        small = thumbnail(frame)
        means = {name: tensor for name, tensor in self.state.items() if name != THUMBNAIL}
        if THUMBNAIL not in self.state or is_cut(self.state[THUMBNAIL].numpy(), small):
            means = {}
        clear, means = self.dehazer.frame(frame, means, weight=self.weight)
        self.state = {THUMBNAIL: torch.from_numpy(small), **means}
        return clear


def dehaze_frames(
    frames: Iterable[np.ndarray],
    dehazer: Dehazer | None = None,
    *,
    weight: float = WEIGHT,
    state: Mapping[str, Tensor] | None = None,
) -> Iterator[np.ndarray]:
    """Remove haze from the frames of a camera or a film, each when it is asked for.

    Args:
        frames: RGB, (H, W, 3) each: uint8, uint16, or floating point in [0, 1]. The size may change on the way.
        dehazer: does the work; None: `Dehazer()`.
        weight: 0 < weight <= 1, of a frame in the averages that keep the brightness from flickering: see `FrameDehazer`.
            1: each frame for itself.
        state: of a `FrameDehazer`, to go on where it stood.

    Returns:
        The clear frames, of the same shape and dtype, in their order.

    Raises:
        TypeError, ValueError: as `Dehazer.frame`.

    Example:
        >>> for clear in famkern.video.dehaze_frames(camera, famkern.Dehazer(scale=3)):
        ...     show(clear)
    """
    dehaze = FrameDehazer(dehazer or Dehazer(), weight, state)
    for frame in frames:
        yield dehaze(frame)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """What a frame shows, roughly: (y, x, 3) float32 in [0, 1], means of samples of GRID x GRID cells and its size."""
    height, width = frame.shape[:2]
    step = [max(1, side // (GRID * CELL_SAMPLES)) for side in (height, width)]
    samples = frame[:: step[0], :: step[1]]
    full = np.iinfo(frame.dtype).max if frame.dtype.kind == "u" else 1
    sums = samples.astype(np.float64) / full
    for axis in (0, 1):
        count = sums.shape[axis]
        edges = np.unique(np.arange(GRID) * count // GRID)
        lengths = np.diff(np.append(edges, count)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        sums = np.add.reduceat(sums, edges, axis=axis) / lengths
    return sums.astype(np.float32)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether these thumbnails show different scenes: they differ by more than CUT times what varies within them.

    Haze lowers contrast, and with it the difference between scenes; therefore contrast is the measure.
    """
    if before.shape != after.shape:
        return True
    spread = np.mean([np.abs(small - small.mean(axis=(0, 1))).mean() for small in (before, after)])
    return bool(np.abs(after - before).mean() > CUT * max(float(spread), SMALLEST_SPREAD))
