"""A picture as a job of a batch, in four steps: checked, read, dehazed, written.

Reading and writing may go on beside another picture's dehazing; see running.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .. import images
from ..dehazer import Dehazer
from ..engine import MemoryBoundError, parse_bytes
from .jobs import Job, Options
from .mask import Mask

logger = logging.getLogger("famkern")


@dataclass(frozen=True)
class Needs:
    """What a picture takes, in bytes.

    held     the picture before and after, which are there from dehazing to writing
    network  what dehazing takes at least, beside these
    reading  the peak of reading, the picture included
    writing  what writing takes, beside what is held
    """

    held: int
    network: int
    reading: int
    writing: int

    @property
    def least(self) -> int:
        """What all takes at least, step after step."""
        return max(self.reading, self.held + max(self.network, self.writing))


@dataclass(frozen=True)
class Dehazed:
    """What is to be written."""

    hazy: images.Picture
    clear: images.Picture
    transmission: images.Picture | None


def checked(job: Job, dehazer: Dehazer, options: Options, mask: Mask | None) -> tuple[images.Header, Needs]:
    """What the file's header tells, and what the picture will take; an error if the job is known to fail."""
    header = images.header(job.source, max_pixels=options.max_pixels)
    format = images.SUFFIXES[job.target.suffix.lower()]
    header.check_fits(job.target, format)
    for path in job.outputs[1:]:
        images.check_writable(path)
    if mask:
        mask.check(header)
    network = dehazer.least_memory(header.height, header.width) if dehazer.strength else 0
    writing = max(header.write_bytes(format), images.side_by_side_bytes(header) if job.compare else 0)
    if job.transmission:
        estimate = images.haze_map_bytes(header)
        network = max(network, estimate + dehazer.transmission_memory(header.height, header.width))
        writing += estimate
    needs = Needs(_held_bytes(header) + (mask.bytes if mask else 0), network, header.read_bytes, writing)
    if options.memory is not None:
        bound = parse_bytes(options.memory)
        least = max(mask.read_bytes, mask.bytes + needs.least) if mask else needs.least
        if least > bound:
            raise MemoryBoundError(f"a picture of {header.width} x {header.height} pixels in a file", least, bound)
    return header, needs


def dehaze(
    job: Job,
    picture: images.Picture,
    dehazer: Dehazer,
    mask: Mask | None,
    missing: Sequence[Path],
    progress: Callable[[float], None] | None,
) -> Dehazed:
    """The picture dehazed, which changes what has no data in it, and what else is to be written of it."""
    gaps = images.Gaps(picture) if picture.valid is not None or picture.alpha is not None else None
    if gaps:
        gaps.fill(picture.pixels)
    valid = gaps.valid if gaps else None
    space = images.colour_space(picture.metadata.icc)
    seen = space.to_srgb(picture.pixels) if space else picture.pixels
    try:
        pixels = dehazer(seen, progress=progress, valid=valid)
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        why = "memory did not suffice; once more with as little as possible, which takes longer"
        logger.warning(images.printable(f"{job.source}: {why}"))
        dehazer = dehazer.limited(dehazer.least_memory(*seen.shape[:2]))
        pixels = dehazer(seen, progress=progress, valid=valid)
    transmission = None
    if job.transmission and job.transmission in missing:
        transmission = images.haze_map(picture, dehazer.transmission(seen, pixels, valid=valid), valid)
    if space:
        space.bring_back(pixels, picture.pixels, seen)
    if gaps:
        gaps.restore(picture.pixels)
        gaps.restore(pixels)
    if mask:
        mask.apply(picture.pixels, pixels)
    return Dehazed(picture, replace(picture, pixels=pixels), transmission)


def write(job: Job, dehazed: Dehazed, missing: Sequence[Path], quality: int | None) -> None:
    """Write the outputs that are missing."""
    if job.transmission and dehazed.transmission:
        images.write(job.transmission, dehazed.transmission)
    if job.target in missing:
        images.write(job.target, dehazed.clear, format=images.SUFFIXES[job.target.suffix.lower()], quality=quality)
    if job.compare and job.compare in missing:
        images.write(job.compare, images.side_by_side(dehazed.hazy, dehazed.clear), format="JPEG")


def _held_bytes(header: images.Header) -> int:
    """Bytes of the picture before and after, and as the network sees it, which are there while the network runs."""
    pixels = header.width * header.height * np.dtype(header.dtype).itemsize
    converted = 3 if images.colour_space(header.metadata.icc) else 0
    held = pixels * (3 + 3 + converted + (1 if header.channels in (2, 4) else 0) + len(header.bands))
    return held + images.gaps_bytes(header)


def _is_lack_of_memory(error: Exception) -> bool:
    """Also what PyTorch's allocator for the CPU raises, which is told from others by its text alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
