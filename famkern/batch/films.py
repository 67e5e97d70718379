"""A film as a job of a batch."""

from __future__ import annotations

from collections.abc import Callable

from .. import images, video
from ..dehazer import Dehazer
from ..engine import MemoryBoundError, parse_bytes
from .jobs import Job, Options


def checked(job: Job, dehazer: Dehazer, options: Options) -> Dehazer:
    """The dehazer with the memory that frames and codecs leave it; an error if the job is known to fail."""
    given = {"--compare": options.compare, "--transmission": options.transmission, "--mask": options.mask is not None}
    if wrong := [name for name, asked in given.items() if asked]:
        raise images.ImageError(f"{job.source}: {wrong[0]} is for pictures; dehaze films without it")
    header = video.read_header(job.source, max_pixels=options.max_pixels)
    images.check_writable(job.target)
    if options.memory is None:
        return dehazer
    bound, held = parse_bytes(options.memory), video.film_bytes(header)
    least = held + (dehazer.least_memory(header.height, header.width) if dehazer.strength else 0)
    if least > bound:
        raise MemoryBoundError(f"a film of {header.width} x {header.height} pixels", least, bound)
    return dehazer.limited(bound - held)


def dehaze(job: Job, dehazer: Dehazer, options: Options, progress: Callable[[Job, float], None] | None) -> None:
    """Write the film that is missing."""
    video.dehaze_film(
        job.source,
        job.target,
        dehazer,
        codec=options.codec,
        crf=options.crf,
        max_pixels=options.max_pixels,
        progress=progress and (lambda fraction: progress(job, fraction)),
    )
