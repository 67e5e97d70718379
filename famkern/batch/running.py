"""dehaze_files(): one file after another within one memory bound; one that fails is a line, and the others are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .. import images
from ..dehazer import Dehazer
from ..engine import MemoryBoundError, parse_bytes
from .jobs import Job, Options, Outcome, Skip


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
        if job.problem or job.skip:
            yield Outcome(job, skipped=job.skip, problem=job.problem)
            continue
        try:
            outcome = _dehaze_file(job, dehazer, options, progress)
        except images.ImageError as error:  # names its file
            outcome = Outcome(job, problem=str(error))
        except Exception as error:  # whatever it is, it is of this file, and the others are still to be done
            reason = " ".join(str(error).split()) or type(error).__name__
            outcome = Outcome(job, problem=f"{job.source}: {reason}")
        yield outcome


def _dehaze_file(
    job: Job, dehazer: Dehazer, options: Options, progress: Callable[[Job, float], None] | None
) -> Outcome:
    missing = [path for path in job.outputs if options.overwrite or not _is_there(path)]
    if not missing:
        return Outcome(job, skipped=Skip.THERE)
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
    if job.target in missing:
        images.write(job.target, result, format=format, quality=options.quality)
    if job.compare and job.compare in missing:
        images.write(job.compare, images.side_by_side(picture, result), format="JPEG")
    return Outcome(job, done=True)


def _held_bytes(header: images.Header) -> int:
    """Bytes of the picture before and after, which are there while the network runs."""
    pixels = header.width * header.height * np.dtype(header.dtype).itemsize
    return pixels * (3 + 3 + (1 if header.channels in (2, 4) else 0))


def _is_there(path: Path) -> bool:
    """Whether an output is: an empty file is what something left that failed, and a folder is none."""
    return path.is_file() and path.stat().st_size > 0
