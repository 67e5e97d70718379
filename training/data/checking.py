"""All that a training reads is read once before its first step: what is damaged, or does not fit, is told together.

What could be read is remembered in the user's cache, by name, size and time of change, so that the next training begins
at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from famkern import images

from .store import read, read_depth

Size = tuple[int, int]  # height, width
Sizes = Callable[[Path], Size]
Report = Callable[[str], None]

MOST_TOLD = 20


class File(NamedTuple):
    """A picture, or a file of depth."""

    path: Path
    depth: bool = False


class Checked(Protocol):
    """Files that belong together, such as a scene's."""

    @property
    def files(self) -> Sequence[File]:
        """All of them."""

    def check(self, size: Sizes) -> None:
        """Raise ValueError if the files, each of which can be read, do not fit one another."""


class Alone(NamedTuple):
    """A picture without a partner."""

    path: Path

    @property
    def files(self) -> Sequence[File]:
        """It."""
        return [File(self.path)]

    def check(self, size: Sizes) -> None:
        """It fits anything."""


def check(groups: Iterable[Checked], report: Report = lambda _: None, *, threads: int | None = None) -> None:
    """Read all files of these groups, those that were read before excepted.

    Args:
        groups: of files that belong together.
        report: takes a line for each file that is bad, and for what takes time.
        threads: that read; None: as many as there are processors.

    Raises:
        ValueError: with the number of bad files, if there are any.
    """
    groups = list(groups)
    files = list(dict.fromkeys(file for group in groups for file in group.files))
    known = _remembered()
    stamps = {file: _stamp(file) for file in files}
    sizes = {file.path: known[stamp] for file, stamp in stamps.items() if stamp in known}
    new = [file for file in files if file.path not in sizes]
    problems: dict[Path, str] = {}
    if new:
        report(f"reading {len(new)} files once, before the first step, to see that all are whole")
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            for file, found in zip(new, pool.map(_read, new), strict=True):
                if isinstance(found, str):
                    problems[file.path] = found
                else:
                    sizes[file.path] = known[stamps[file]] = found
        _remember(known, report)
    for group in groups:
        if not any(file.path in problems for file in group.files):
            try:
                group.check(sizes.__getitem__)
            except ValueError as error:
                problems[group.files[0].path] = str(error)
    for line in list(problems.values())[:MOST_TOLD]:
        report(line)
    if problems:
        more = f", {len(problems) - MOST_TOLD} of them not named here" if len(problems) > MOST_TOLD else ""
        raise ValueError(f"{len(problems)} of {len(files)} files are not fit to train on{more}; mend or remove them")


def _read(file: File) -> Size | str:
    """Its size; or what is wrong with it."""
    try:
        shape = (read_depth if file.depth else read)(file.path).shape
    except images.ImageError as error:  # names its file
        return str(error)
    except (ValueError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return images.printable(reason if str(file.path) in reason else f"{file.path}: {reason}")
    return shape[0], shape[1]


def _stamp(file: File) -> str:
    """Another one for another content; for a file that is not there, none that is ever remembered."""
    path = os.path.abspath(file.path)
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{'depth' if file.depth else 'picture'} {status.st_size} {status.st_mtime_ns} {path}"


def _place() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "famkern" / "checked.json"


def _remembered() -> dict[str, Size]:
    """Stamps of files to their sizes."""
    try:
        content: Any = json.loads(_place().read_text(encoding="utf-8"))
        return {str(stamp): (int(height), int(width)) for stamp, (height, width) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # nothing yet, or nothing of ours: all are read again
        return {}


def _remember(known: dict[str, Size], report: Report) -> None:
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with images.replacing(place) as file:
            file.write(json.dumps(known).encode("ascii"))
    except (OSError, images.ImageError) as error:
        report(f"the files will be read again by the next training: {error}")
