"""Many files in, many files out: which files, under which names, one after another within one memory bound."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

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
    problem: str | None = None


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
    out = Path(output)
    found = [item for entry in inputs for item in _expand(Path(entry), recursive, out)]
    single = len(inputs) == 1 and len(found) == 1 and not Path(inputs[0]).is_dir()
    names_a_file = out.suffix.lower() in images.SUFFIXES and not out.is_dir()
    if names_a_file and not single:
        raise ValueError(f"{out}: with more than one input file the output is a folder, not a picture")
    if not names_a_file and out.exists() and not out.is_dir():
        raise ValueError(f"{out}: the output is a folder (or, for one input file, a picture), but this is another file")
    sources = {job.source.resolve() for job, _ in found}
    taken: dict[Path, Path] = {}
    jobs = []
    for job, folder in found:
        if job.problem is not None:
            jobs.append(job)
            continue
        target = out if names_a_file else out / folder / _output_name(job.source, options)
        resolved = target.resolve()
        problem = None
        if resolved in sources:
            same = resolved == job.source.resolve()
            what = "itself" if same else "another input"
            problem = f"{job.source}: the output {target} is {what}; choose another folder or --suffix"
        elif resolved in taken:
            problem = f"{job.source}: the output {target} is already that of {taken[resolved]}; use separate folders"
        taken.setdefault(resolved, job.source)
        jobs.append(Job(job.source, target, problem))
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
        elif job.target.exists() and not options.overwrite:
            yield Outcome(job, skipped=True)
        else:
            try:
                _dehaze_file(job, dehazer, options, progress)
            except images.ImageError as error:  # names its file
                yield Outcome(job, problem=str(error))
            except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                yield Outcome(job, problem=f"{job.source}: {reason}")
            else:
                yield Outcome(job, done=True)


def _dehaze_file(job: Job, dehazer: Dehazer, options: Options, progress: Callable[[Job, float], None] | None) -> None:
    header = images.header(job.source, max_pixels=options.max_pixels)
    format = images.SUFFIXES[job.target.suffix.lower()]
    bound = None if options.memory is None else parse_bytes(options.memory)
    if bound is not None:
        dehazer = dehazer.limited(max(1, bound - _held_bytes(header)))
        least = max(header.read_bytes, _held_bytes(header) + header.write_bytes(format))
        if least > bound:
            raise MemoryBoundError("reading and writing it", least, bound)
    picture = images.read(job.source, max_pixels=options.max_pixels)
    try:
        pixels = dehazer(picture.pixels, progress=progress and (lambda fraction: progress(job, fraction)))
    except MemoryBoundError as error:
        if bound is None:
            raise
        raise MemoryBoundError(error.what, error.least + _held_bytes(header), bound) from None
    job.target.parent.mkdir(parents=True, exist_ok=True)
    result = replace(picture, pixels=pixels)
    if options.compare:
        beside = images.side_by_side(picture, result)
        images.write(job.target.with_name(f"{job.target.stem}-compare.jpg"), beside, format="JPEG")
    images.write(job.target, result, format=format, quality=options.quality)


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


def _expand(entry: Path, recursive: bool, output: Path) -> Iterator[tuple[Job, Path]]:
    """The files that one input stands for, each with its folder relative to that input."""
    if entry.is_dir():
        files = sorted(
            path
            for path in (entry.rglob("*") if recursive else entry.iterdir())
            if path.suffix.lower() in images.SUFFIXES
            and path.is_file()
            # Outputs of an earlier run are no inputs, where the output folder lies inside the input folder.
            and (output.resolve() == entry.resolve() or output.resolve() not in path.resolve().parents)
        )
        if not files:
            yield Job(entry, entry, f"{entry}: no images in this folder ({', '.join(images.SUFFIXES)})"), Path()
        for path in files:
            yield Job(path, path), path.parent.relative_to(entry)
    elif not entry.exists() and glob.has_magic(str(entry)):
        matches = sorted(Path(name) for name in glob.glob(str(entry), recursive=recursive))
        if not matches:
            yield Job(entry, entry, f"{entry}: no file matches this pattern"), Path()
        for path in matches:
            yield from _expand(path, recursive, output)
    elif not entry.exists():
        yield Job(entry, entry, f"{entry}: no such file or folder"), Path()
    else:
        yield Job(entry, entry), Path()
