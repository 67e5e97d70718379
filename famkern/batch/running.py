"""dehaze_files(): file after file within one memory bound; one that fails is a line, and the others are done.

While a picture is dehazed, on all cores, the one before it is written and the one after it is read, each on a thread of
its own: codecs fill the gaps that the network leaves.

    read      1   2   3   4
    dehaze        1   2   3   4
    write             1   2   3   4
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from .. import images
from ..dehazer import Dehazer
from ..engine import parse_bytes, peak_bytes
from . import films, pictures
from .jobs import Job, Measured, Options, Outcome, Skip
from .mask import Mask

R = TypeVar("R")
Progress = Callable[[Job, float], None]

# Share of a bound on memory that neighbours of a picture may take; if they take more, they wait for it to be finished.
NEIGHBOURS = 1 / 4


def dehaze_files(
    jobs: Sequence[Job],
    dehazer: Dehazer,
    options: Options | None = None,
    progress: Progress | None = None,
    *,
    tidy: bool = True,
) -> Iterator[Outcome]:
    """Dehaze files when their outcomes are asked for; one that fails is reported, the others are done.

    Args:
        jobs: from `plan_jobs`.
        dehazer: does the work; its own memory bound is not used, `options.memory` is.
        options: of the outputs.
        progress: called with a job and its finished fraction, on the caller's thread.
        tidy: remove from the folders of outputs what earlier runs left when they were killed.

    Returns:
        An iterator of an Outcome for each job, in their order. A picture's outcome comes when it is written, and then the
        next one may have been dehazed already, but none is being written. One that is interrupted gives the outcome of what
        it was writing first, and raises when it is asked for the next.

    Raises:
        ImageError: if the mask cannot be read, or is none.
        ValueError: if the map of transmission is asked for at strength 0, which leaves nothing to estimate it from.
    """
    options = options or Options()
    return _outcomes(jobs, _Batch(dehazer, options, checked_mask(dehazer, options), progress, tidy))


def checked_mask(dehazer: Dehazer, options: Options) -> Mask | None:
    """The mask, if there is one; raises what `dehaze_files` does."""
    if options.transmission and dehazer.strength == 0:
        raise ValueError("strength is 0: a picture that stays as it is tells nothing of its haze")
    if options.mask is None:
        return None
    mask = Mask(options.mask, options.max_pixels)
    if options.memory is None or mask.read_bytes <= parse_bytes(options.memory):  # else each picture is refused for it
        mask.read()
    return mask


def foregone(job: Job, options: Options) -> Outcome | None:
    """The outcome of a job for which nothing is to be done; None where something is."""
    found = _missing(job, options)
    return found if isinstance(found, Outcome) else None


@dataclass
class _Batch:
    """What all files have in common."""

    dehazer: Dehazer
    options: Options
    mask: Mask | None
    progress: Progress | None
    tidy: bool
    ready: set[Path] = field(default_factory=set)  # folders that are there, without what earlier runs left

    def prepare(self, missing: Sequence[Path]) -> None:
        """The folders of these outputs."""
        for folder in {path.parent for path in missing} - self.ready:
            with images.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            if self.tidy:
                images.remove_dead(folder)
            self.ready.add(folder)

    def reporter(self, job: Job) -> Callable[[float], None] | None:
        """Of the progress of one job."""
        progress = self.progress
        return None if progress is None else lambda fraction: progress(job, fraction)

    def awaited(self, future: Future[R], what: str) -> R:
        """The result of what goes on in the background, or an error that names it if that takes too long."""
        limit = self.options.timeout
        try:
            return future.result(limit)
        except TimeoutError:
            if future.done():
                raise  # its own
            raise images.ImageError(images.printable(f"{what} takes longer than {limit:g} s; check the disk")) from None


@dataclass
class _Picture:
    """A picture on its way."""

    job: Job
    missing: Sequence[Path]
    header: images.Header
    needs: pictures.Needs
    batch: _Batch
    reading: Future[tuple[images.Picture, float]] | None = None
    picture: images.Picture | None = None
    dehazed: pictures.Dehazed | None = None
    writing: Future[tuple[None, float]] = field(default_factory=Future)
    seconds: dict[str, float] = field(default_factory=dict)

    @functools.cached_property
    def empty(self) -> images.Empty | None:
        """What makes its arrays on disk; None where they are in memory."""
        return pictures.maker(self.needs)

    def read(self) -> None:
        """Begin to, if that was not done before."""
        if self.reading is None:
            path, limit, empty = self.job.source, self.batch.options.max_pixels, self.empty
            self.reading = Future()
            _in_background(self.reading, lambda: images.read(path, max_pixels=limit, empty=empty))

    def load(self) -> None:
        """Wait until it is read."""
        self.read()
        assert self.reading is not None
        self.picture, self.seconds["read"] = self.batch.awaited(self.reading, f"{self.job.source}: reading it")
        self.reading = None

    def dehaze(self, memory: int | None) -> None:
        """Do."""
        picture, self.picture = self.picture, None
        assert picture is not None
        begin = time.perf_counter()
        dehazer, report = self.batch.dehazer.limited(memory), self.batch.reporter(self.job)
        empty = self.empty or np.empty
        self.dehazed = pictures.dehaze(self.job, picture, dehazer, self.batch.mask, self.missing, report, empty)
        self.seconds["dehaze"] = time.perf_counter() - begin

    def write(self) -> None:
        """Begin to."""
        _in_background(self.writing, self._write)

    def _write(self) -> None:
        dehazed, self.dehazed = self.dehazed, None
        assert dehazed is not None
        self.batch.prepare(self.missing)
        pictures.write(self.job, dehazed, self.missing, self.batch.options.quality)
        if self.batch.options.keep_time:
            _keep_time(self.job, self.missing)

    def outcome(self) -> Outcome:
        """When it is written."""
        try:
            _, self.seconds["write"] = self.batch.awaited(self.writing, f"{self.job.target}: writing it")
        except Exception as error:
            return _failed(self.job, error)
        measured = Measured(self.header.width, self.header.height, dict(self.seconds), peak_bytes())
        return Outcome(self.job, done=True, measured=measured)


def _outcomes(jobs: Sequence[Job], batch: _Batch) -> Iterator[Outcome]:
    behind: list[_Picture] = []  # at most one, which is written while the next one is dehazed
    try:
        yield from _in_turn(jobs, batch, behind)
    except BaseException:  # an interruption, wherever it comes: it goes on when all that is done has been told
        with contextlib.suppress(KeyboardInterrupt):  # a second one changes nothing; a third one does not wait
            if behind and behind[0].writing.cancel():  # it has not begun, and will not
                behind.clear()
            elif behind:
                behind[0].outcome()
        yield from _ended(behind)
        raise


def _in_turn(jobs: Sequence[Job], batch: _Batch, behind: list[_Picture]) -> Iterator[Outcome]:
    """The outcomes. Where this is interrupted, `behind` is what was being written; at each outcome, nothing is."""
    ahead: Outcome | _Picture | None = None  # has been looked at already
    for index, job in enumerate(jobs):
        if job.is_film:
            yield from _ended(behind)
        current, ahead = ahead or _begun(job, batch), None
        if isinstance(current, Outcome):
            yield from _ended(behind)
            yield current
            continue
        if index + 1 < len(jobs) and not jobs[index + 1].is_film:
            ahead = _begun(jobs[index + 1], batch)
        following = ahead if isinstance(ahead, _Picture) else None
        memory, together = _share(batch.options.memory, behind, current, following)
        if not together:
            yield from _ended(behind)
        try:
            current.load()
            if following and together:
                following.read()
            current.dehaze(memory)
        except Exception as error:
            yield from _ended(behind)
            yield _failed(job, error)
        else:
            yield from _ended(behind)
            behind.append(current)  # first, so that an interruption finds it
            current.write()
    yield from _ended(behind)


def _ended(behind: list[_Picture]) -> Iterator[Outcome]:
    """The outcome of the picture that is being written, if there is one, when it is."""
    if behind:
        outcome = behind[0].outcome()
        del behind[0]  # no call, so that no interruption comes between this and the next line
        yield outcome


def _share(
    bound: int | str | None, behind: Sequence[_Picture], current: _Picture, following: _Picture | None
) -> tuple[int | None, bool]:
    """What dehazing this picture may take of the bound on memory, and whether its neighbours go on beside it."""
    if bound is None:
        return None, True
    bytes = parse_bytes(bound)
    left = bytes - current.needs.held
    beside = sum(picture.needs.held + picture.needs.writing for picture in behind)
    beside += following.needs.reading if following else 0
    together = beside <= min(NEIGHBOURS * bytes, bytes - current.needs.least)
    if any(picture.needs.in_files for picture in (*behind, current, following) if picture):
        together = False  # what they take on disk is looked at one by one
    return (left - beside if together else left), together


def _begun(job: Job, batch: _Batch) -> Outcome | _Picture:
    """The outcome, where it is known without work, as that of a film, which is done here; else the picture to do."""
    options, dehazer = batch.options, batch.dehazer
    missing = _missing(job, options)
    try:
        if isinstance(missing, Outcome):
            if missing.skipped is Skip.THERE and not options.dry_run:
                batch.prepare(job.outputs)  # a run that was killed may have left something beside them
            return missing
        if job.is_film:
            limited = films.checked(job, dehazer, options)
            if not options.dry_run:
                batch.prepare(missing)
                films.dehaze(job, limited, options, batch.progress)
                if options.keep_time:
                    _keep_time(job, missing)
            return Outcome(job, done=True)
        checking: Future[tuple[tuple[images.Header, pictures.Needs], float]] = Future()
        _in_background(checking, lambda: pictures.checked(job, dehazer, options, batch.mask))
        (header, needs), _ = batch.awaited(checking, f"{job.source}: reading it")
        return (
            Outcome(job, done=True, disk=needs.disk)
            if options.dry_run
            else _Picture(job, missing, header, needs, batch)
        )
    except Exception as error:
        return _failed(job, error)


def _failed(job: Job, error: Exception) -> Outcome:
    """Whatever it is, it is of this file, and the others are still to be done."""
    if isinstance(error, images.ImageError):  # names its file
        return Outcome(job, problem=str(error))
    reason = " ".join(str(error).split()) or type(error).__name__
    return Outcome(job, problem=images.printable(f"{job.source}: {reason}"))


def _in_background(future: Future[tuple[R, float]], work: Callable[[], R]) -> None:
    """Set the result of a function, with the seconds that it takes, on a thread of its own.

    On one that does not keep the process from ending, for a network folder may never answer. A caller that is interrupted
    in here has the future, which then runs or can be cancelled.
    """

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        begin = time.perf_counter()
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result((result, time.perf_counter() - begin))

    threading.Thread(target=run, daemon=True).start()


def _keep_time(job: Job, written: Sequence[Path]) -> None:
    status = job.source.stat()
    for path in written:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _missing(job: Job, options: Options) -> list[Path] | Outcome:
    """The outputs that are to be written; the outcome where there are none."""
    if job.problem or job.skip:
        return Outcome(job, skipped=job.skip, problem=job.problem)
    try:
        missing = [path for path in job.outputs if options.overwrite or not _is_there(path)]
    except OSError as error:
        return _failed(job, error)
    return missing or Outcome(job, skipped=Skip.THERE)


def _is_there(path: Path) -> bool:
    """Whether an output is: an empty file is what something left that failed, and a folder is none."""
    return path.is_file() and path.stat().st_size > 0
