"""plan_jobs(): which files the inputs stand for, and what the output of each is called.

Everything that an input stands for becomes a job, also what will not be done and why, so that the numbers of files done,
skipped and failed add up to what was asked for.

Inputs and outputs may share folders. What an earlier run wrote must then not be taken for an input. Two rules see to it:

- where the output folder lies inside a folder to be searched, all in it are outputs;
- elsewhere, a file with the name of the output, the comparison or the map of haze for another input is that.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import images, video
from .jobs import FORMATS, Job, Options, Skip, comparison, haze_map

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class _Found:
    """A file that an input stands for."""

    path: Path
    folder: Path = Path()  # relative to the input, repeated under the output
    named: bool = True  # by the user; not by a folder that it lies in or a pattern that it matches
    skip: Skip | None = None
    problem: str | None = None

    @property
    def open(self) -> bool:
        """Whether nothing speaks against doing it yet."""
        return not (self.skip or self.problem)


def plan_jobs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    recursive: bool = False,
    options: Options | None = None,
) -> list[Job]:
    """Find the files and name their outputs.

    Args:
        inputs: files, folders (their pictures and films, with those in subfolders if `recursive`) and glob patterns. What
            begins with a dot in a folder is not looked at.
        output: a file, if there is one input file and this ends in the suffix of a picture, or for a film, of a film;
            otherwise a folder.
        recursive: descend into subfolders, which are repeated under `output`.
        options: of the outputs.

    Returns:
        A job for each file that the inputs stand for, with `skip` or `problem` where it is not to be done.

    Raises:
        ValueError: if `output` cannot be what these inputs need: one file for many, a folder that is a file, or a file of
            another format than the options say. Also for URLs.
    """
    options = options or Options()
    for name in [os.fspath(path) for path in (*inputs, output)]:
        if name == "":
            raise ValueError("an empty name is neither an input nor an output")
        if URL.match(name):
            raise ValueError(
                f"{name}: URLs are neither read nor written; mount the store as a folder, or copy the files"
            )
    out = Path(output)
    found = _once([item for entry in inputs for item in _find(Path(entry), recursive, out, alone=len(inputs) == 1)])
    wanted = [item for item in found if not item.skip]
    single = len(wanted) == 1 and not any(map(os.path.isdir, inputs))
    to_a_file = _names_a_file(out, single, single and video.is_film(wanted[0].path.suffix), options)

    def target_of(item: _Found) -> Path:
        return out if to_a_file else out / item.folder / options.output_name(item.path)

    found = _outputs_marked(found, target_of)
    sources = {_real(item): item for item in found if item.open or item.skip == Skip.OUTPUT}
    taken: dict[str, Path] = {}
    jobs = []
    for item in found:
        if not item.open:
            jobs.append(Job(item.path, item.path, skip=item.skip, problem=item.problem))
            continue
        target = target_of(item)
        beside = not video.is_film(item.path.suffix)
        job = Job(
            item.path,
            target,
            comparison(target) if options.compare and beside else None,
            haze_map(target) if options.transmission and beside else None,
        )
        problem = None
        for path in job.outputs:
            real = os.path.realpath(path)
            if real in sources and sources[real] is item:
                problem = f"{item.path}: the output {path} is itself; choose another folder or --suffix"
            elif real in sources and _is_lost(
                sources[real], made=bool(options.suffix) or path is not target, by=options
            ):
                problem = f"{item.path}: the output {path} is another input; choose another folder or --suffix"
            elif real in taken:
                problem = f"{item.path}: the output {path} is already that of {taken[real]}; use separate folders"
            taken.setdefault(real, item.path)
        jobs.append(replace(job, problem=problem))
    return jobs


def _find(entry: Path, recursive: bool, out: Path, *, alone: bool) -> Iterator[_Found]:
    """The files that one input stands for. `alone`: it is the only one."""
    if os.path.isdir(entry):
        if os.path.realpath(entry) == os.path.realpath(out) and not alone:
            yield _Found(entry, skip=Skip.FOLDER)
        else:
            yield from _in_folder(entry, recursive, out)
    elif os.path.exists(entry):
        yield _Found(entry)
    elif glob.has_magic(str(entry)):
        yield from _of_pattern(entry, recursive, out)
    else:
        yield _Found(entry, problem=f"{entry}: no such file or folder")


def _in_folder(folder: Path, recursive: bool, out: Path) -> Iterator[_Found]:
    """The pictures in a folder, in the order of their names."""
    found: list[_Found] = []

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        found.append(_Found(path, problem=f"{path}: cannot be opened ({error.strerror}); check the permissions"))

    for place, names in _walk(folder, recursive, unreadable):
        for path in (Path(place, name) for name in names):
            suffix = path.suffix.lower()
            film = video.is_film(suffix)
            if film or images.is_picture(suffix) or (path.is_file() and images.holds_picture(path)):
                readable = images.is_readable(suffix) or (film and video.is_installed())
                skip = None if readable else Skip.FORMAT
                found.append(_Found(path, path.parent.relative_to(folder), named=False, skip=skip))
    if not any(item.problem or not item.skip for item in found):
        suffixes = ", ".join(images.SUFFIXES)
        yield _Found(folder, problem=f"{folder}: no images in this folder ({suffixes})")
    found.sort(key=lambda item: item.path)
    yield from _outputs_left_out(found, folder, out)


def _matching(pattern: Path, recursive: bool) -> set[Path]:
    """Files and folders that match; if recursive, "**" stands for any folders, and links are not followed in circles."""
    if not recursive or "**" not in pattern.parts:
        return {Path(name) for name in glob.glob(str(pattern))}
    at = pattern.parts.index("**")
    rest = list(itertools.dropwhile(lambda part: part == "**", pattern.parts[at:]))
    tops = [top for top in _matching(Path(*pattern.parts[:at]), recursive) if top.is_dir()] if at else [Path()]
    if not rest:
        return set(tops)
    places = [Path(place) for top in tops for place, _ in _walk(top)]
    return {path for place in places for path in _matching(Path(glob.escape(str(place)), *rest), recursive)}


def _walk(
    folder: Path, recursive: bool = True, unreadable: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A folder, and those below it if recursive, with what is in each; not in circles, where links lead, and without what
    begins with a dot."""
    visited = set()
    for place, subfolders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        visited.add(os.path.realpath(place))
        subfolders[:] = [
            name
            for name in sorted(subfolders)
            if recursive and not name.startswith(".") and os.path.realpath(os.path.join(place, name)) not in visited
        ]
        yield place, [name for name in names if not name.startswith(".")]


def _of_pattern(pattern: Path, recursive: bool, out: Path) -> Iterator[_Found]:
    """The files that match a pattern, and those in the folders that do."""
    matches = sorted(_matching(pattern, recursive))
    if not matches:
        yield _Found(pattern, problem=f"{pattern}: no file matches this pattern")
    parts = pattern.parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    found = [item for path in matches for item in _find(path, recursive, out, alone=False)]
    yield from _outputs_left_out([replace(item, named=False) for item in found], Path(*parts[:fixed]), out)


def _outputs_left_out(found: list[_Found], searched: Path, out: Path) -> Iterator[_Found]:
    """These, those in the output folder marked if that lies inside the folder that was searched."""
    if _lies_in(out, searched):
        inside = [_lies_in(item.path, out) for item in found]
        if found and all(inside):
            yield _Found(out, problem=f"{out}: all pictures lie in the output folder; name it itself as the input")
        marks = zip(found, inside, strict=True)
        found = [replace(item, skip=Skip.FOLDER, problem=None) if mark else item for item, mark in marks]
    yield from found


def _lies_in(path: Path, folder: Path) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(folder).rstrip(os.sep) + os.sep)


def _real(item: _Found) -> str:
    return os.path.realpath(item.path)


def _once(found: list[_Found]) -> list[_Found]:
    """These, repetitions of a directory entry marked. A link and what it points to are two."""
    seen: dict[str, int] = {}
    result: list[_Found] = []
    for item in found:
        place = os.path.join(os.path.realpath(item.path.parent), item.path.name)
        if not item.open or place not in seen:
            seen.setdefault(place, len(result))
            result.append(item)
        else:
            first = seen[place]
            result[first] = replace(result[first], named=result[first].named or item.named)
            result.append(replace(item, skip=Skip.TWICE))
    return result


def _outputs_marked(found: list[_Found], target_of: Callable[[_Found], Path]) -> list[_Found]:
    """These, those marked that an earlier run may have written for another one of them.

    A file that the user names is such an output only if it is called otherwise than that input, and one in the output
    folder needs no mention where it is.
    """
    written: dict[str, _Found] = {}
    for item in filter(lambda item: item.open, found):
        target = target_of(item)
        for path in (target, comparison(target), haze_map(target)):
            written.setdefault(os.path.realpath(path), item)
    result = []
    for item in found:
        by = written.get(_real(item))
        if by is None or by is item or (item.named and item.path.name == by.path.name):
            result.append(item)
        elif item.skip != Skip.FOLDER:
            result.append(replace(item, skip=Skip.OUTPUT) if item.open else item)
    return result


def _is_lost(other: _Found, *, made: bool, by: Options) -> bool:
    """Whether writing over this input would lose it: not if it stays, nor if it is sure to be an earlier run's output.

    `made`: its name is one that the options make, not one that an input may have by chance.
    """
    if other.skip != Skip.OUTPUT:
        return True
    return by.overwrite and (other.named or not made)


def _names_a_file(out: Path, single: bool, film: bool, options: Options) -> bool:
    """Whether the output is a file, not a folder. `film`: that of the single input is a film."""
    if os.path.isdir(out):
        return False
    suffix = out.suffix.lower()
    if suffix in video.CONTAINERS and single:
        if not film:
            raise ValueError(f"{out}: a picture does not become a film; choose one of {', '.join(images.SUFFIXES)}")
        _check_no_suffix(out, options)
        return True
    if film and (suffix in images.SUFFIXES or video.is_film(suffix)):
        raise ValueError(f"{out}: a film is written as one of {', '.join(video.CONTAINERS)}")
    if suffix in images.UNREAD_SUFFIXES or (suffix in images.READ_SUFFIXES and suffix not in images.SUFFIXES):
        raise ValueError(f"{out}: {suffix} cannot be written; choose one of {', '.join(images.SUFFIXES)}")
    if suffix not in images.SUFFIXES:
        if os.path.exists(out):
            raise ValueError(
                f"{out}: the output is a folder (or, for one input file, a picture), but this is another file"
            )
        return False
    if not single:
        raise ValueError(f"{out}: with more than one input file the output is a folder, not a picture")
    if options.format and FORMATS[options.format.lower()] != images.SUFFIXES[suffix]:
        raise ValueError(
            f"{out}: the output is to be {images.SUFFIXES[suffix]} by its name but --format says otherwise"
        )
    _check_no_suffix(out, options)
    return True


def _check_no_suffix(out: Path, options: Options) -> None:
    if options.suffix:
        raise ValueError(f"{out}: --suffix is for outputs in a folder; put {options.suffix!r} into this name instead")
