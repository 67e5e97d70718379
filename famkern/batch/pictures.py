"""A picture as a job of a batch, in four steps: checked, read, dehazed, written.

    file --read--> hazy --to_srgb--> seen --network--> clear --bring_back, restore, apply--> clear --write--> file

Reading and writing may go on beside another picture's dehazing; see running.py. Where the pixels of a TIFF do not fit the
bound on memory, all these arrays lie in files on disk, and rows of them pass through memory: the same steps, the same bits.
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
from ..engine import MemoryBoundError, parse_bytes, spill_folder, spilled_arrays
from .jobs import Job, Options
from .mask import Mask

NETWORK_ROWS = 64  # of a picture in files, which are read and written beside the network, at most

logger = logging.getLogger("famkern")


@dataclass(frozen=True)
class Needs:
    """What a picture takes, in bytes.

    held     the picture before and after, which are there from dehazing to writing; or the rows of them that are
    network  what dehazing takes at least, beside these
    reading  the peak of reading, the picture included
    writing  what writing takes, beside what is held
    in_files whether the picture is on disk, not in memory
    disk     what spill files take: the network's maps, and the picture if it is there
    """

    held: int
    network: int
    reading: int
    writing: int
    in_files: bool = False
    disk: int = 0

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
    if options.memory is None:
        return header, needs

    def least(needs: Needs) -> int:
        return max(mask.read_bytes, mask.bytes + needs.least) if mask else needs.least

    bound, ways = parse_bytes(options.memory), [needs]
    if header.rows_bytes and format == "TIFF" and not (job.compare or job.transmission):
        ways.append(_needs_in_files(header, mask, network))
    for way in ways:
        if least(way) <= bound:
            limited = dehazer.limited(bound - way.held)
            maps = limited.spilled_bytes(header.height, header.width) if dehazer.strength else 0
            if disk := way.disk + maps:
                spill_folder(disk)
            return header, replace(way, disk=disk)
    raise MemoryBoundError(
        f"a picture of {header.width} x {header.height} pixels in a file", min(map(least, ways)), bound
    )


def maker(needs: Needs) -> images.Empty | None:
    """What makes the arrays of a picture on disk; None where they are in memory.

    Raises:
        OSError: if there is no room.
    """
    return spilled_arrays(needs.disk) if needs.in_files else None


def dehaze(
    job: Job,
    picture: images.Picture,
    dehazer: Dehazer,
    mask: Mask | None,
    missing: Sequence[Path],
    progress: Callable[[float], None] | None,
    empty: images.Empty = np.empty,
) -> Dehazed:
    """The picture dehazed, and what else is to be written of it; `empty` makes the arrays.

    Meanwhile what has no data in the picture is changed.
    """
    gaps = images.Gaps(picture, empty) if picture.valid is not None or picture.alpha is not None else None
    if gaps:
        gaps.fill(picture.pixels)
    valid = gaps.valid if gaps else None
    space = images.colour_space(picture.metadata.icc)
    seen = space.to_srgb(picture.pixels, empty) if space else picture.pixels
    pixels = empty(seen.shape, seen.dtype)
    dehazer = _streamed(job, dehazer, seen, pixels, valid, progress)
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


def _streamed(
    job: Job,
    dehazer: Dehazer,
    seen: images.Samples,
    pixels: images.Samples,
    valid: images.Samples | None,
    progress: Callable[[float], None] | None,
) -> Dehazer:
    """Dehaze `seen` into `pixels`, and where memory does not suffice, with less; returns the one whose memory did."""
    try:
        dehazer.stream(seen, pixels, progress=progress, valid=valid)
        return dehazer
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        why = "memory did not suffice; once more with as little as possible, which takes longer"
        logger.warning(images.printable(f"{job.source}: {why}"))
    # Not before the error is gone, which keeps alive what the first attempt had allocated.
    limited = dehazer.limited(dehazer.least_memory(*seen.shape[:2]))
    limited.stream(seen, pixels, progress=progress, valid=valid)
    return limited


def write(job: Job, dehazed: Dehazed, missing: Sequence[Path], quality: int | None) -> None:
    """Write the outputs that are missing."""
    if job.transmission and dehazed.transmission:
        images.write(job.transmission, dehazed.transmission)
    if job.target in missing:
        images.write(job.target, dehazed.clear, format=images.SUFFIXES[job.target.suffix.lower()], quality=quality)
    if job.compare and job.compare in missing:
        images.write(job.compare, images.side_by_side(dehazed.hazy, dehazed.clear), format="JPEG")


def _needs_in_files(header: images.Header, mask: Mask | None, network: int) -> Needs:
    """Where the picture lies in files."""
    assert header.rows_bytes
    row = header.width * (3 + header.has_alpha + len(header.bands)) * header.dtype.itemsize
    return Needs(
        held=NETWORK_ROWS * row + (mask.bytes if mask else 0),
        network=network,
        reading=header.rows_bytes,
        writing=header.write_bytes("TIFF") + images.TILE * row,
        in_files=True,
        disk=_held_bytes(header) + (header.width * header.height if header.gaps else 0),
    )


def _held_bytes(header: images.Header) -> int:
    """Bytes of the picture before and after, and as the network sees it, which are there while the network runs."""
    pixels = header.width * header.height * np.dtype(header.dtype).itemsize
    converted = 3 if images.colour_space(header.metadata.icc) else 0
    held = pixels * (3 + 3 + converted + header.has_alpha + len(header.bands))
    return held + images.gaps_bytes(header)


def _is_lack_of_memory(error: Exception) -> bool:
    """Also what PyTorch's allocator for the CPU raises, which is told from others by its text alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
