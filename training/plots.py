"""Pictures of a run: its curves, and what the network makes of some samples."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot

GAP = 4  # white pixels between samples
SIDE = 480  # samples are shown no wider than this


def curves(log: Path, path: Path) -> None:
    """Draw every column of a run's log over its steps."""
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("step", "seconds") and any(row[name] for row in rows)]
    figure, axes = pyplot.subplots(len(names), figsize=(8, 2 * len(names)), sharex=True, squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None, linewidth=0.8)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        if name in ("loss", "restoration", "affinity") and min(value for _, value in points) > 0:
            axis.set_yscale("log")
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def grid(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Write rows of pictures (3, H, W) in [0, 1], of one size in each row, as one PNG."""
    strips = []
    for pictures in rows:
        shown = [
            Image.fromarray((p.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for p in pictures
        ]
        width, height = shown[0].size
        factor = min(1.0, SIDE / width)
        size = round(width * factor), max(1, round(height * factor))
        strip = Image.new("RGB", (len(shown) * (size[0] + GAP) - GAP, size[1]), "white")
        for index, picture in enumerate(shown):
            strip.paste(picture.resize(size, Image.Resampling.LANCZOS), (index * (size[0] + GAP), 0))
        strips.append(strip)
    if not strips:
        return
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height + GAP for s in strips) - GAP), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + GAP
    sheet.save(path)
