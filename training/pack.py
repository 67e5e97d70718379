"""One small file of everything that a training draws from, for a machine to which little can be carried.

    python -m famkern.training.pack -o data.zip nyu bsds500/train bsds500_train_disparity ...

The archive holds the folders with the names and layouts that they have, so that what trains on the folders trains on
what it is unpacked to. Pictures become WebP of the given quality, reduced to a longer side of at most `side`; depth becomes
lossless: 8-bit WebP, or 16-bit PNG, at every `step`-th pixel, since a source takes depth from the nearest pixel.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from famkern import images
from famkern.engine import format_bytes, parse_bytes

from .data.layouts import DEPTHS, pictures
from .data.store import read

DATE = (1980, 1, 1, 0, 0, 0)  # of every entry: the same content gives the same file


def pack(folders: list[Path], output: Path, *, quality: int, side: int, step: int, limit: int) -> int:
    """Write the archive, whole or not at all; returns its bytes.

    Raises:
        ValueError: for a folder without pictures, a file that cannot be read, and more than `limit` bytes.
    """
    with images.replacing(output) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for folder in folders:
                for name, content in entries(folder, quality=quality, side=side, step=step):
                    archive.writestr(zipfile.ZipInfo(f"{folder.resolve().name}/{name}", DATE), content)
        size = file.seek(0, io.SEEK_END)
        if size > limit:
            raise ValueError(
                f"{output}: {format_bytes(size)}, more than {format_bytes(limit)}; "
                "lower --quality or --side, raise --step, or give fewer folders"
            )
    return size


def entries(folder: Path, *, quality: int, side: int, step: int) -> Iterator[tuple[str, bytes]]:
    """Name inside the folder and content of each of its files, in order."""
    files = pictures(folder, recursive=True)
    if not files:
        raise ValueError(f"{folder}: no images in this folder or below it")
    for path in files:
        place = path.relative_to(folder)
        if path.parent.name in DEPTHS or path.parent.name.endswith("_disparity"):
            content, suffix = depth(path, step)
        else:
            content, suffix = picture(path, quality, side), ".webp"
        yield str(place.with_suffix(suffix)), content


def picture(path: Path, quality: int, side: int) -> bytes:
    """A photograph as WebP."""
    photo = Image.fromarray(read(path))
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    photo.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def depth(path: Path, step: int) -> tuple[bytes, str]:
    """Every `step`-th value of a file of depth, lossless, and the suffix of its format."""
    values = np.ascontiguousarray(images.read(path).pixels[::step, ::step, 0])
    file = io.BytesIO()
    if values.dtype == np.uint8:
        Image.fromarray(values).convert("RGB").save(file, "WEBP", lossless=True, quality=100, method=4)
        return file.getvalue(), ".webp"
    if values.dtype != np.uint16:
        raise ValueError(f"{path}: depth of 8 or 16 bits expected, not {values.dtype}")
    Image.fromarray(values).save(file, "PNG", optimize=True)
    return file.getvalue(), ".png"


def main(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Of pictures, with depth or without.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.zip")],
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of WebP.")] = 50,
    side: Annotated[int, typer.Option(min=16, help="Longer side of pictures, at most, in pixels.")] = 608,
    step: Annotated[int, typer.Option(min=1, help="One of so many rows and columns of depth is kept.")] = 2,
    limit: Annotated[str, typer.Option(help="Size of the archive, at most.")] = "60MiB",
) -> None:
    """Put all that a training draws from into one small archive."""
    try:
        size = pack(folders, output, quality=quality, side=side, step=step, limit=parse_bytes(limit))
    except (ValueError, OSError) as error:
        sys.exit(f"famkern: {error}")
    print(f"{output}: {format_bytes(size)}")


if __name__ == "__main__":
    typer.run(main)
