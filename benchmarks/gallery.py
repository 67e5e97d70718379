"""The gallery of docs/quality.md: pairs of hazy and clear pictures, and what removes the haze, side by side.

    famkern synthesize PHOTOS -o pairs
    python benchmarks/gallery.py pairs docs/images/gallery.jpg [--rows 4] [--width 360]

Columns: hazy | dark channel prior | student | student at scale auto | clear. Pictures are dehazed at full size and then
reduced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dark_channel
import numpy as np
from PIL import Image

from famkern import Dehazer
from famkern.training import evaluation

GAP = 6  # pixels between pictures


def columns(hazy: np.ndarray, clear: np.ndarray, dehazers: list[Dehazer]) -> list[np.ndarray]:
    """Pictures (H, W, 3) in [0, 1], from left to right."""
    return [hazy, dark_channel.dehaze(hazy), *(dehazer(hazy) for dehazer in dehazers), clear]


def main() -> None:
    dehazers = [Dehazer(device="cpu"), Dehazer(device="cpu", scale="auto")]
    rows = []
    for pair in evaluation.find_pairs(arguments.folder)[: arguments.rows]:
        hazy, clear = (evaluation.read(path).permute(1, 2, 0).numpy() for path in (pair.hazy, pair.clear))
        height = round(hazy.shape[0] * arguments.width / hazy.shape[1])
        row = [
            Image.fromarray((picture * 255).round().astype(np.uint8)).resize((arguments.width, height), Image.LANCZOS)
            for picture in columns(np.ascontiguousarray(hazy), clear, dehazers)
        ]
        rows.append(np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in row], axis=1))
    Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP]).save(arguments.output, quality=88, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds hazy/ and clear/")
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--width", type=int, default=360, help="of each picture, in pixels")
    arguments = parser.parse_args()
    main()
