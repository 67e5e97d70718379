"""How data sets name their files: which picture belongs to which."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from famkern import images

HAZY = ("hazy", "haze", "synthetic")
CLEAR = ("clear", "gt", "GT", "original", "clear_images")
PICTURES = ("rgb", "image", "images", "clear")
DEPTHS = ("depth", "disparity", "disp")
NUMPY_SUFFIXES = (".npy", ".npz")

logger = logging.getLogger("famkern")


@dataclass(frozen=True)
class Pair:
    """A hazy picture and the clear one of the same view."""

    hazy: Path
    clear: Path

    @property
    def airlight(self) -> float:
        """Brightness of the airlight, in [0, 1].

        From names of ITS (ID_number_A) and OTS (ID_A_beta), where A is 0.7 or more and beta 0.2 or less; else 1.
        """
        numbers = [float(part) for part in self.hazy.stem.split("_")[1:] if re.fullmatch(r"\d+(\.\d+)?", part)]
        if len(numbers) < 2:
            return 1.0
        airlight = numbers[1] if numbers[1] >= 0.5 else numbers[0]
        return airlight if 0.5 <= airlight <= 1 else 1.0


@dataclass(frozen=True)
class DepthPair:
    """A picture and a file with the depth of each of its pixels, or, if `disparity`, its inverse."""

    picture: Path
    depth: Path
    disparity: bool


def find_pairs(folder: str | os.PathLike[str]) -> list[Pair]:
    """The pairs in FOLDER/hazy and FOLDER/clear, or in folders with the other names that RESIDE's sets have for them.

    A hazy ID_*.png (or ID_*_*.jpg, ...) belongs to clear ID.*; a hazy picture with the name of a clear one to that. One
    without a partner is paired with the file that should be there: whoever reads that is told.

    Raises:
        ValueError: if there are no pairs.
    """
    folders = [_one_of(folder, names) for names in (HAZY, CLEAR)]
    for path in folders:
        if not path.is_dir():
            raise ValueError(f"{folder}: a folder that holds hazy/ and clear/ expected, but there is no {path}")
    hazy, clear = map(pictures, folders)
    by_stem = {path.stem: path for path in clear}
    if not hazy:
        raise ValueError(f"{folders[0]}: no images in this folder")
    pairs = []
    for path in hazy:
        stem = path.stem
        while stem not in by_stem and "_" in stem:
            stem = stem.rpartition("_")[0]
        pairs.append(Pair(path, by_stem.get(stem, folders[1] / path.name)))
    return pairs


def find_depths(folder: str | os.PathLike[str]) -> list[DepthPair]:
    """Pictures in FOLDER/rgb with depth in FOLDER/depth (inverse depth in FOLDER/disparity), or beside one another.

    Depth files are pictures with one channel or NumPy's .npy and .npz. NAME.* has its depth in depth/NAME.*; the words
    rgb, image, left, depth, disparity, disp, sync and underscores beside them do not count in a name, so that rgb_1.jpg
    and sync_depth_1.png match. In one folder, NAME.jpg has its depth in NAME_depth.* or NAME_disparity.*.

    Raises:
        ValueError: if there are none, or a depth file has no picture.
    """
    depths, views = _one_of(folder, DEPTHS), _one_of(folder, PICTURES)
    if not depths.is_dir():
        depths = views = Path(folder)
    elif not views.is_dir():
        raise ValueError(f"{folder}: a folder that holds rgb/ and depth/ expected, but there is no {views}")
    if not depths.is_dir():
        raise ValueError(f"{folder}: no such folder")
    depth_files = [
        path
        for path in _visible(depths)
        if path.suffix.lower() in NUMPY_SUFFIXES or images.is_readable(path.suffix.lower())
    ]
    if depths == views:
        depth_files = [path for path in depth_files if re.search("(^|_)(depth|disp)", path.stem)]
    by_name = {_plain(path): path for path in pictures(views) if path not in depth_files}
    if not depth_files:
        raise ValueError(f"{folder}: a folder that holds rgb/ and depth/, or NAME.jpg and NAME_depth.png, expected")
    pairs = []
    for path in depth_files:
        picture = by_name.get(_plain(path))
        if picture is None:
            raise ValueError(f"{path}: no picture of the same name in {views}")
        pairs.append(DepthPair(picture, path, "disp" in path.stem or "disp" in depths.name))
    return pairs


def find_photos(folder: str | os.PathLike[str]) -> list[Path]:
    """All pictures in FOLDER and its subfolders, but those in folders of depth.

    Raises:
        ValueError: if there are none.
    """
    found = [path for path in pictures(Path(folder), recursive=True) if path.parent.name not in DEPTHS]
    if not found:
        raise ValueError(f"{folder}: no images in this folder or below it")
    return found


def find_disparity(folder: str | os.PathLike[str], photo: Path) -> Path | None:
    """The file with the estimated inverse depth of a photograph in a folder of photographs; None if there is none.

    It has the photograph's stem, lies in FOLDER_disparity beside FOLDER (PARENT_FOLDER_disparity beside PARENT for a
    FOLDER in PARENT), or in disparity/ beside rgb/, and holds 1 for the farthest to 255 for the nearest.
    """
    folder = Path(folder).absolute()
    candidates = (
        folder.with_name(f"{folder.name}_disparity"),
        folder.parent.with_name(f"{folder.parent.name}_{folder.name}_disparity"),
        photo.parent.with_name("disparity"),
    )
    files = (place / f"{photo.stem}{suffix}" for place in candidates for suffix in (".webp", ".png"))
    return next((file for file in files if file.is_file()), None)


def _one_of(folder: str | os.PathLike[str], names: tuple[str, ...]) -> Path:
    """The first of these subfolders that is there; the first of all if none is."""
    paths = [Path(folder) / name for name in names]
    return next((path for path in paths if path.is_dir()), paths[0])


def pictures(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The pictures in a folder, with those below it if `recursive`, in the order of their names; a line in the log tells of
    those that are not read. What begins with a dot, or lies in a folder that does, is not looked at."""
    known = [path for path in _visible(folder, recursive) if images.is_picture(path.suffix.lower())]
    read = [path for path in known if images.is_readable(path.suffix.lower())]
    left_out = [path.suffix.lower() for path in known if not images.is_readable(path.suffix.lower())]
    if left_out:
        suffixes = ", ".join(sorted(set(left_out)))
        logger.warning(
            images.printable(f"{folder}: {len(left_out)} files are left out, which are not read: {suffixes}")
        )
    return read


def _visible(folder: Path, recursive: bool = False) -> list[Path]:
    """Files, in the order of their names, but those that are hidden."""
    return sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and not path.is_dir()
    )


def _plain(path: Path) -> str:
    return re.sub("_?(rgb|image|left|depth|disparity|disp|sync)_?", "", path.stem)
