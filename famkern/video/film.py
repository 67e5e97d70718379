"""dehaze_film(): a file in, a file out.

decode ──queue──> dehaze ──queue──> encode        each in a thread of its own; the packets of other streams go along

After every SEGMENT frames a SegmentEnd follows, at which the encoder ends what it has, and the segment is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from .. import __version__, images
from ..dehazer import Dehazer
from .frames import WEIGHT, FrameDehazer
from .reading import Frame, Header, opened, read, read_header
from .segments import SEGMENT, Segments
from .writing import Writer, writer

logger = logging.getLogger("famkern")

T = TypeVar("T")

AHEAD = 3  # frames that wait between two threads
# Frames that are in memory at a time: in both queues, and one in each of three hands, as pixels before and after.
FRAMES_HELD = 2 * AHEAD + 6
# Frames that decoder and encoder keep, for reference, to look ahead and in each of their threads, in the format of the
# film: as large as in memory for 4:4:4, else less. Measured with x264 on two cores: 30 of the size in memory.
CODEC_FRAMES, CODEC_FRAMES_A_CORE = 32, 3


@dataclass(frozen=True)
class SegmentEnd:
    """After the last frame of a segment: its number, and the averages then."""

    index: int
    state: dict[str, Tensor]


def film_bytes(header: Header) -> int:
    """What a film takes in memory beside what its frames' runs do."""
    codecs = CODEC_FRAMES + CODEC_FRAMES_A_CORE * (os.cpu_count() or 1)
    return images.WORKSPACE_BYTES + header.frame_bytes * (FRAMES_HELD + codecs)


def dehaze_film(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dehazer: Dehazer,
    *,
    codec: str | None = None,
    crf: int | None = None,
    weight: float = WEIGHT,
    max_pixels: int = images.MAX_PIXELS,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Remove haze from a film; the new file is there whole, or not at all.

    Depth, times of frames, rotation, range, matrix, primaries and transfer of colours, other streams, chapters and
    metadata stay as they are.

    Args:
        source: anything that FFmpeg reads.
        target: with a suffix out of `famkern.video.CONTAINERS`; replaced if it is there.
        dehazer: does the work.
        codec: h264, hevc, vp9 or av1, or FFmpeg's name of an encoder. None: as the source if that is one of these.
        crf: constant quality of these four, lower is better.
        weight: see `FrameDehazer`.
        max_pixels: of a frame; more are refused.
        progress: called with the finished fraction, as far as the number of frames is known.

    Raises:
        ImageError: if PyAV is not installed, `source` cannot be read or `target` cannot be written.
        ValueError: for a `crf` where the codec has none.
    """
    header = read_header(source, max_pixels=max_pixels)
    if header.interlaced:
        logger.warning(f"{source}: is interlaced; the result has the same lines, but does not say so")
    segments = Segments(Path(target), _key(header, dehazer, codec, crf, weight))
    first = segments.count  # that is not finished
    of_the_film: list[images.ImageError] = []
    if first:
        logger.info(f"{target}: goes on after frame {first * SEGMENT} of an earlier run")

    def cleared(items: Iterable[Any]) -> Generator[Any]:
        dehaze, count = FrameDehazer(dehazer, weight, segments.state()), 0
        try:
            for item in items:
                if not isinstance(item, Frame):
                    yield item
                    continue
                yield item if item.pixels is None else replace(item, pixels=dehaze(item.pixels))
                count += 1
                if count % SEGMENT == 0:
                    yield SegmentEnd(count // SEGMENT - 1, dehaze.state)
        except images.ImageError as error:
            of_the_film.append(error)
            raise

    try:
        with (
            closing(segments),
            opened(source) as container,
            writer(Path(target), header, container, codec=codec, crf=crf) as film,
        ):
            frames, done = ahead(read(header, container, passed=first * SEGMENT), AHEAD), 0
            with closing(frames), closing(ahead(cleared(frames), AHEAD)) as clear:
                for item in clear:
                    _take(item, film, segments)
                    if progress and isinstance(item, Frame):
                        done += 1
                        progress(min(done / max(header.frames, done + 1), 1.0))
            segments.add(film.end_segment())
            film.write(segments.packets(segments.finish(None)))
    except images.ImageError as error:
        if error in of_the_film:  # which would fail again
            segments.remove()
        raise
    segments.remove()
    if progress:
        progress(1.0)


def _take(item: Frame | SegmentEnd | Any, film: Writer, segments: Segments) -> None:
    """Encode, keep or copy what comes next; frames of finished segments have no pixels, and their packets are kept."""
    if isinstance(item, SegmentEnd):
        if item.index == segments.count:
            segments.add(film.end_segment())
            segments.finish(item.state)
        film.write(segments.packets(item.index))
    elif not isinstance(item, Frame):
        film.copy(item)
    elif item.pixels is not None:
        segments.add(film.encode(item))


def _key(header: Header, dehazer: Dehazer, codec: str | None, crf: int | None, weight: float) -> str:
    """Of all that decides the bytes of the film."""
    status = os.stat(header.path)
    what = [header, status.st_size, status.st_mtime_ns, dehazer.identity(), codec, crf, weight, SEGMENT, __version__]
    return hashlib.sha256(repr(what).encode()).hexdigest()


def ahead(items: Generator[T], count: int) -> Generator[T]:
    """The same items in the same order, made in a thread of their own, up to `count` of them before they are asked for.

    An error comes where the item would. When this is closed the thread has ended, and so has `items`.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None] | None] = queue.Queue(count)
    stopped = threading.Event()

    def put(entry: tuple[T | None, BaseException | None] | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    break
        except BaseException as error:
            put((None, error))
        else:
            put(None)
        finally:
            items.close()

    thread = threading.Thread(target=make, name="famkern-film", daemon=True)
    thread.start()
    try:
        while (entry := waiting.get()) is not None:
            item, error = entry
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
