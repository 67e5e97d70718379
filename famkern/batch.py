"""Many files in, many files out: which files, under which names, one after another within one memory bound."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import images
from .dehazer import Dehazer
from .engine import MemoryBoundError, parse_bytes

EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
FORMATS = {suffix.removeprefix("."): name for suffix, name in images.SUFFIXES.items()}  # what --format takes


@dataclass(frozen=True)
class Options:
    """How outputs are named and written.

    Args:
        overwrite: replace existing outputs instead of skipping them.
        format: format of all outputs, one of FORMATS; None for each input's own.
        quality: 1..100 of JPEG and lossy WebP outputs; None for the default of `famkern.images.write`.
        suffix: put between the stem and the extension of each output.
        compare: also write NAME-compare.jpg, hazy left and clear right.
        max_pixels: refuse larger pictures.
        memory: bound in bytes (or text such as "1GiB") on everything that processing a picture allocates: the picture
            itself, the maps, the buffers of the codecs. None: as `Dehazer`.
    """

    overwrite: bool = False
    format: str | None = None
    quality: int | None = None
    suffix: str = ""
    compare: bool = False
    max_pixels: int = images.MAX_PIXELS
    memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format.lower() not in FORMATS:
            raise ValueError(f"format is one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is a number from 1 to 100, not {self.quality}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is a number of 1 or more, not {self.max_pixels}")
        if os.sep in self.suffix:
            raise ValueError(f"suffix is part of a file name, without {os.sep!r}: {self.suffix!r}")
        if self.memory is not None:
            parse_bytes(self.memory)


@dataclass(frozen=True)
class Job:
    """One file to do. `problem` says why it cannot be done, where that is known beforehand."""

    source: Path
    target: Path
    compare: Path | None = None  # where before | after goes
    problem: str | None = None

    @property
    def outputs(self) -> list[Path]:
        """All files that it writes."""
        return [self.target] if self.compare is None else [self.target, self.compare]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: exactly one of done, skipped and failed (then `problem` is one line that names the file)."""

    job: Job
    done: bool = False
    skipped: bool = False
    problem: str | None = None


def plan_jobs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    recursive: bool = False,
    options: Options | None = None,
) -> list[Job]:
    """Find the files and name their outputs.

    Args:
        inputs: files, folders (their images, with subfolders if `recursive`) and glob patterns.
        output: a file, if there is one input file and this ends in an image suffix; otherwise a folder.
        recursive: descend into subfolders, which are repeated under `output`.
        options: of the outputs.

    Raises:
        ValueError: if `output` cannot be what these inputs need: one file for many, or a folder that is a file.
    """
    options = options or Options()
    if any(os.fspath(name) == "" for name in (*inputs, output)):
        raise ValueError("an empty name is neither an input nor an output")
    out = Path(output)
    found = [item for entry in inputs for item in _expand(Path(entry), recursive, out, alone=len(inputs) == 1)]
    single = len(inputs) == 1 and len(found) == 1 and not os.path.isdir(inputs[0])
    names_a_file = out.suffix.lower() in images.SUFFIXES and not os.path.isdir(out)
    if names_a_file and not single:
        raise ValueError(f"{out}: with more than one input file the output is a folder, not a picture")
    if not names_a_file and os.path.exists(out) and not os.path.isdir(out):
        raise ValueError(f"{out}: the output is a folder (or, for one input file, a picture), but this is another file")

    def name(source: Path, folder: Path) -> Path:
        return out if names_a_file else out / folder / _output_name(source, options)

    # In a folder that is input and output at once, what an earlier run wrote for another file there is no input.
    written = {
        os.path.realpath(name(item.path, item.folder)) for item in found if options.suffix and not item.named_by_user
    }
    found = [item for item in found if item.named_by_user or os.path.realpath(item.path) not in written]
    sources = {os.path.realpath(item.path) for item in found if not item.problem}
    taken: dict[str, Path] = {}
    jobs = []
    for item in found:
        if item.problem:
            jobs.append(Job(item.path, item.path, problem=item.problem))
            continue
        target = name(item.path, item.folder)
        compare = target.with_name(f"{target.stem}-compare.jpg") if options.compare else None
        problem = None
        for path in filter(None, (target, compare)):
            real = os.path.realpath(path)
            if real in sources:
                what = "itself" if real == os.path.realpath(item.path) else "another input"
                problem = f"{item.path}: the output {path} is {what}; choose another folder or --suffix"
            elif real in taken:
                problem = f"{item.path}: the output {path} is already that of {taken[real]}; use separate folders"
            taken.setdefault(real, item.path)
        jobs.append(Job(item.path, target, compare, problem))
    return jobs


def dehaze_files(
    jobs: Sequence[Job],
    dehazer: Dehazer,
    options: Options | None = None,
    progress: Callable[[Job, float], None] | None = None,
) -> Iterator[Outcome]:
    """Dehaze files one after another; a file that fails is reported and the others are done.

    Args:
        jobs: from `plan_jobs`.
        dehazer: does the work; its own memory bound is not used, `options.memory` is.
        options: of the outputs.
        progress: called with a job and its finished fraction.

    Yields:
        An Outcome for each job, in their order, when it has ended.
    """
    options = options or Options()
    for job in jobs:
        if job.problem is not None:
            yield Outcome(job, problem=job.problem)
        elif all(map(os.path.exists, job.outputs)) and not options.overwrite:
            yield Outcome(job, skipped=True)
        else:
            try:
                _dehaze_file(job, dehazer, options, progress)
            except images.ImageError as error:  # names its file
                yield Outcome(job, problem=str(error))
            except (ValueError, OSError, MemoryError, RuntimeError) as error:  # PyTorch out of memory: RuntimeError
                reason = " ".join(str(error).split()) or type(error).__name__
                yield Outcome(job, problem=f"{job.source}: {reason}")
            else:
                yield Outcome(job, done=True)


def _dehaze_file(job: Job, dehazer: Dehazer, options: Options, progress: Callable[[Job, float], None] | None) -> None:
    header = images.header(job.source, max_pixels=options.max_pixels)
    format = images.SUFFIXES[job.target.suffix.lower()]
    if options.memory is not None:
        bound, held = parse_bytes(options.memory), _held_bytes(header)
        network = dehazer.least_memory(header.height, header.width) if dehazer.strength else 0
        comparison = images.side_by_side_bytes(header) if job.compare else 0
        least = max(header.read_bytes, held + max(network, header.write_bytes(format), comparison))
        if least > bound:
            raise MemoryBoundError(f"a picture of {header.width} x {header.height} pixels in a file", least, bound)
        dehazer = dehazer.limited(bound - held)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    picture = images.read(job.source, max_pixels=options.max_pixels)
    pixels = dehazer(picture.pixels, progress=progress and (lambda fraction: progress(job, fraction)))
    result = replace(picture, pixels=pixels)
    if options.overwrite or not job.target.exists():
        images.write(job.target, result, format=format, quality=options.quality)
    if job.compare and (options.overwrite or not job.compare.exists()):
        images.write(job.compare, images.side_by_side(picture, result), format="JPEG")


def _held_bytes(header: images.Header) -> int:
    """Bytes of the picture before and after, which are there while the network runs."""
    pixels = header.width * header.height * np.dtype(header.dtype).itemsize
    return pixels * (3 + 3 + (1 if header.channels in (2, 4) else 0))


def _output_name(source: Path, options: Options) -> str:
    if options.format is None:
        extension = source.suffix if source.suffix.lower() in images.SUFFIXES else ".png"
    else:
        extension = EXTENSIONS[FORMATS[options.format.lower()]]
    return f"{source.stem}{options.suffix}{extension}"


@dataclass(frozen=True)
class _Found:
    """A file that an input stands for."""

    path: Path
    folder: Path = Path()  # relative to the input, repeated under the output
    named_by_user: bool = True  # itself, not a folder that it lies in or a pattern that it matches
    problem: str | None = None


def _expand(entry: Path, recursive: bool, output: Path, alone: bool) -> Iterator[_Found]:
    """The files that one input stands for. `alone`: it is the only one.

    What lies in the output folder is an earlier run's, not an input, unless the user names a file there or gives that
    folder as the only input.
    """
    if os.path.isdir(entry):
        inside = os.path.realpath(output)
        if os.path.realpath(entry) == inside and not alone:
            return
        files = sorted(
            path
            for path in (entry.rglob("*") if recursive else entry.iterdir())
            if path.suffix.lower() in images.SUFFIXES
            and path.is_file()
            and (os.path.realpath(entry) == inside or not _lies_in(path, inside))
        )
        if not files:
            suffixes = ", ".join(images.SUFFIXES)
            yield _Found(entry, problem=f"{entry}: no images in this folder ({suffixes})")
        for path in files:
            yield _Found(path, path.parent.relative_to(entry), named_by_user=False)
    elif not os.path.exists(entry) and glob.has_magic(str(entry)):
        matches = sorted(Path(name) for name in glob.glob(str(entry), recursive=recursive))
        if not matches:
            yield _Found(entry, problem=f"{entry}: no file matches this pattern")
        for path in matches:
            if not _lies_in(path, os.path.realpath(output)):
                yield from (replace(item, named_by_user=False) for item in _expand(path, recursive, output, False))
    elif not os.path.exists(entry):
        yield _Found(entry, problem=f"{entry}: no such file or folder")
    else:
        yield _Found(entry)


def _lies_in(path: Path, folder: str) -> bool:
    return os.path.realpath(path).startswith(folder.rstrip(os.sep) + os.sep)
