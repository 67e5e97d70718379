"""PSNR and SSIM of a model on folders laid out as RESIDE's.

Metrics are torchmetrics'. Figures compare only under equal rules, so RULES stands beside every figure.
"""

from __future__ import annotations

import csv
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

from .data.layouts import Pair, find_pairs

__all__ = ["RULES", "Pair", "Score", "evaluate", "find_pairs", "mean", "measure", "read", "write_csv"]

RULES = (
    "mean over pairs of RGB in [0, 1], not rounded to 8 bits; SSIM with an 11 x 11 Gaussian of sigma 1.5, "
    "only where it lies inside the picture"
)
BORDER = 5  # pixels at each side where the Gaussian reaches beyond the picture


@dataclass(frozen=True)
class Score:
    """Figures of one pair: of the hazy input and of the model's output, PSNR in dB."""

    hazy: Path
    hazy_psnr: float
    hazy_ssim: float
    psnr: float
    ssim: float


def evaluate(dehazer: Dehazer, pairs: Sequence[Pair]) -> Iterator[Score]:
    """Score the model on each pair.

    Raises:
        ValueError: if the two pictures of a pair differ in size.
        ImageError: (a ValueError) for a file that cannot be read.
    """
    for pair in pairs:
        hazy, clear = read(pair.hazy), read(pair.clear)  # (3, H, W)
        if hazy.shape != clear.shape:
            raise ValueError(
                f"{pair.hazy}: {hazy.shape[2]} x {hazy.shape[1]} pixels, but its clear partner {pair.clear} has "
                f"{clear.shape[2]} x {clear.shape[1]}; crop them to the same view first"
            )
        output = dehazer(hazy)
        yield Score(pair.hazy, *measure(hazy, clear), *measure(output, clear))


def measure(image: Tensor, clear: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM between two pictures (3, H, W) in [0, 1], by RULES; both sides at least 11 pixels long."""
    if min(image.shape[1:]) <= 2 * BORDER:
        raise ValueError(f"SSIM needs pictures of at least 11 x 11 pixels, not {image.shape[2]} x {image.shape[1]}")
    psnr = peak_signal_noise_ratio(image[None], clear[None], data_range=1.0)
    # Releases of torchmetrics differ in whether their mean counts the border, so take the map and cut the border off.
    _, ssim = structural_similarity_index_measure(
        image[None], clear[None], data_range=1.0, gaussian_kernel=True, sigma=1.5, return_full_image=True
    )
    return float(psnr), float(ssim[..., BORDER:-BORDER, BORDER:-BORDER].mean())


def mean(scores: Sequence[Score]) -> Score:
    """The mean of each figure over all pairs."""
    figures = [field.name for field in fields(Score) if field.name != "hazy"]
    return Score(Path(), **{name: sum(getattr(score, name) for score in scores) / len(scores) for name in figures})


def write_csv(path: str | os.PathLike[str], scores: Sequence[Score]) -> None:
    """One line for each pair."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


def read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1], float32, of any picture."""
    pixels = Pixels(images.read(path).pixels)
    return pixels.read(0, pixels.height, torch.float32, torch.device("cpu"))[0].permute(2, 0, 1)
