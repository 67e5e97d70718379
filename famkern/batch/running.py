"""dehaze_files(): one file after another within one memory bound; one that fails is a line, and the others are done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .. import images
from ..dehazer import Dehazer
from ..engine import MemoryBoundError, parse_bytes
from . import films
from .jobs import Job, Options, Outcome, Skip
from .mask import Mask


def dehaze_files(
    jobs: Sequence[Job],
    dehazer: Dehazer,
    options: Options | None = None,
    progress: Callable[[Job, float], None] | None = None,
) -> Iterator[Outcome]:
    """Dehaze files one after another, each when its outcome is asked for; one that fails is reported, the others are done.

    Args:
        jobs: from `plan_jobs`.
        dehazer: does the work; its own memory bound is not used, `options.memory` is.
        options: of the outputs.
        progress: called with a job and its finished fraction.

    Returns:
        An iterator of an Outcome for each job, in their order.

    Raises:
        ImageError: if the mask cannot be read.
        ValueError: if the map of transmission is asked for at strength 0, which leaves nothing to estimate it from.
    """
    options = options or Options()
    if options.transmission and dehazer.strength == 0:
        raise ValueError("strength is 0: a picture that stays as it is tells nothing of its haze")
    mask = Mask(options.mask, options.max_pixels) if options.mask is not None else None
    return _outcomes(jobs, dehazer, options, mask, progress)


def _outcomes(
    jobs: Sequence[Job],
    dehazer: Dehazer,
    options: Options,
    mask: Mask | None,
    progress: Callable[[Job, float], None] | None,
) -> Iterator[Outcome]:
    tidy: set[Path] = set()  # folders without what earlier runs left when they were killed
    for job in jobs:
        if job.problem or job.skip:
            yield Outcome(job, skipped=job.skip, problem=job.problem)
            continue
        try:
            missing = [path for path in job.outputs if options.overwrite or not _is_there(path)]
            if missing:
                limited = films.checked(job, dehazer, options) if job.is_film else _checked(job, dehazer, options, mask)
                if not options.dry_run:
                    for folder in {path.parent for path in missing} - tidy:
                        folder.mkdir(parents=True, exist_ok=True)
                        images.remove_dead(folder)
                        tidy.add(folder)
                    if job.is_film:
                        films.dehaze(job, limited, options, progress)
                    else:
                        _dehaze_file(job, missing, limited, options, mask, progress)
                    if options.keep_time:
                        status = job.source.stat()
                        for path in missing:
                            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            outcome = Outcome(job, done=True) if missing else Outcome(job, skipped=Skip.THERE)
        except images.ImageError as error:  # names its file
            outcome = Outcome(job, problem=str(error))
        except Exception as error:  # whatever it is, it is of this file, and the others are still to be done
            reason = " ".join(str(error).split()) or type(error).__name__
            outcome = Outcome(job, problem=images.printable(f"{job.source}: {reason}"))
        yield outcome


def _checked(job: Job, dehazer: Dehazer, options: Options, mask: Mask | None) -> Dehazer:
    """The dehazer with the memory that the picture and the codecs leave it; an error if the job is known to fail."""
    header = images.header(job.source, max_pixels=options.max_pixels)
    format = images.SUFFIXES[job.target.suffix.lower()]
    header.check_fits(job.target, format)
    for path in job.outputs[1:]:
        images.check_writable(path)
    if mask:
        mask.check(header)
    if options.memory is None:
        return dehazer
    bound, held = parse_bytes(options.memory), _held_bytes(header) + (mask.bytes if mask else 0)
    network = dehazer.least_memory(header.height, header.width) if dehazer.strength else 0
    comparison = images.side_by_side_bytes(header) if job.compare else 0
    transmission = images.haze_map_bytes(header) if job.transmission else 0
    if job.transmission:
        transmission += dehazer.transmission_memory(header.height, header.width)
    least = max(header.read_bytes, held + max(network, header.write_bytes(format), comparison, transmission))
    if mask:
        least = max(mask.read_bytes, mask.bytes + least)
    if least > bound:
        raise MemoryBoundError(f"a picture of {header.width} x {header.height} pixels in a file", least, bound)
    return dehazer.limited(bound - held)


def _dehaze_file(
    job: Job,
    missing: Sequence[Path],
    dehazer: Dehazer,
    options: Options,
    mask: Mask | None,
    progress: Callable[[Job, float], None] | None,
) -> None:
    """Write the outputs that are missing."""
    picture = images.read(job.source, max_pixels=options.max_pixels)
    gaps = images.Gaps(picture) if picture.valid is not None or picture.alpha is not None else None
    if gaps:
        gaps.fill(picture.pixels)
    valid = gaps.valid if gaps else None
    pixels = dehazer(picture.pixels, progress=progress and (lambda fraction: progress(job, fraction)), valid=valid)
    if job.transmission and job.transmission in missing:
        transmission = dehazer.transmission(picture.pixels, pixels, valid=valid)
        images.write(job.transmission, images.haze_map(picture, transmission, valid))
        del transmission
    if gaps:
        gaps.restore(picture.pixels)
        gaps.restore(pixels)
    if mask:
        mask.apply(picture.pixels, pixels)
    result = replace(picture, pixels=pixels)
    if job.target in missing:
        images.write(job.target, result, format=images.SUFFIXES[job.target.suffix.lower()], quality=options.quality)
    if job.compare and job.compare in missing:
        images.write(job.compare, images.side_by_side(picture, result), format="JPEG")


def _held_bytes(header: images.Header) -> int:
    """Bytes of the picture before and after, which are there while the network runs."""
    pixels = header.width * header.height * np.dtype(header.dtype).itemsize
    held = pixels * (3 + 3 + (1 if header.channels in (2, 4) else 0) + len(header.bands))
    return held + images.gaps_bytes(header)


def _is_there(path: Path) -> bool:
    """Whether an output is: an empty file is what something left that failed, and a folder is none."""
    return path.is_file() and path.stat().st_size > 0
