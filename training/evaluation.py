"""PSNR and SSIM of a model on folders laid out as RESIDE's.

Metrics are torchmetrics'. Figures compare only under equal rules, so RULES stands beside every figure.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from famkern import images
from famkern.dehazer import Dehazer
from famkern.engine import Pixels

from .data.borders import border, inside
from .data.layouts import Pair, find_pairs

__all__ = [
    "RULES",
    "Failure",
    "Pair",
    "Score",
    "evaluate",
    "find_pairs",
    "mean",
    "measure",
    "read",
    "read_pair",
    "write_csv",
]

RULES = (
    "mean over pairs of RGB in [0, 1], not rounded to 8 bits; SSIM with an 11 x 11 Gaussian of sigma 1.5, "
    "only where it lies inside the picture; borders that one picture has more than its partner are cropped"
)
SSIM_BORDER = 5  # pixels at each side where the Gaussian reaches beyond the picture


@dataclass(frozen=True)
class Score:
    """Figures of one pair: of the hazy input and of the model's output, PSNR in dB."""

    hazy: Path
    hazy_psnr: float
    hazy_ssim: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Failure:
    """A pair that could not be measured, and why: one line that names a file."""

    hazy: Path
    problem: str


def evaluate(dehazer: Dehazer, pairs: Sequence[Pair]) -> Iterator[Score | Failure]:
    """Score the model on each pair; one that fails is reported, and the others are measured."""
    for pair in pairs:
        try:
            hazy, clear = read_pair(pair)
            output = dehazer(hazy)
            yield Score(pair.hazy, *measure(hazy, clear), *measure(output, clear))
        except images.ImageError as error:  # names its file
            yield Failure(pair.hazy, str(error))
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Failure(pair.hazy, images.printable(f"{pair.hazy}: {reason}"))


def read_pair(pair: Pair) -> tuple[Tensor, Tensor]:
    """Hazy and clear picture (3, H, W) in [0, 1] of one size.

    Where one is larger than the other by a border, that is cropped: see data/borders.py.

    Raises:
        ImageError: (a ValueError) if they differ in another way, and for a file that cannot be read.
    """
    if not pair.clear.exists():
        raise images.ImageError(f"{pair.hazy}: no clear picture of the same id in {pair.clear.parent}")
    hazy, clear = read(pair.hazy), read(pair.clear)  # (3, H, W)
    more = border(pair.hazy, hazy.shape[1:], pair.clear, clear.shape[1:])
    return hazy[:, inside(-more), inside(-more)], clear[:, inside(more), inside(more)]


def measure(image: Tensor, clear: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM between two pictures (3, H, W) in [0, 1], by RULES; both sides at least 11 pixels long."""
    if min(image.shape[1:]) <= 2 * SSIM_BORDER:
        raise ValueError(f"SSIM needs pictures of at least 11 x 11 pixels, not {image.shape[2]} x {image.shape[1]}")
    psnr = peak_signal_noise_ratio(image[None], clear[None], data_range=1.0)
    # Releases of torchmetrics differ in whether their mean counts the border, so take the map and cut the border off.
    _, ssim = structural_similarity_index_measure(
        image[None], clear[None], data_range=1.0, gaussian_kernel=True, sigma=1.5, return_full_image=True
    )
    return float(psnr), float(ssim[..., SSIM_BORDER:-SSIM_BORDER, SSIM_BORDER:-SSIM_BORDER].mean())


def mean(scores: Sequence[Score]) -> Score:
    """The mean of each figure over all pairs."""
    figures = [field.name for field in fields(Score) if field.name != "hazy"]
    return Score(Path(), **{name: sum(getattr(score, name) for score in scores) / len(scores) for name in figures})


def write_csv(path: str | os.PathLike[str], scores: Sequence[Score]) -> None:
    """One line for each pair, in a file that is there whole or not at all.

    Raises:
        ImageError: if it cannot be written.
    """
    with images.replacing(path) as file:
        # Names of files that are no UTF-8 get their own bytes.
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.DictWriter(text, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)
        text.flush()
        text.detach()


def read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1], float32, of any picture."""
    pixels = Pixels(images.read(path).pixels)
    return pixels.read(0, pixels.height, torch.float32, torch.device("cpu"))[0].permute(2, 0, 1)
