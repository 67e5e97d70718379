"""Films in: what they are, and their frames and other packets one after another."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .. import images
from .formats import pyav

logger = logging.getLogger("famkern")

# As FFmpeg numbers them.
BT601, BT709, BT2020 = 5, 1, 9
MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: BT2020, 10: BT2020}
LIMITED, FULL = 1, 2
HD_HEIGHT = 720  # from here on, players take a film that does not say for BT.709; below for BT.601


@dataclass(frozen=True)
class Colours:
    """How a film's numbers mean colours: FFmpeg's, 2 (or 0 for the range) where the film does not say."""

    range: int
    matrix: int
    primaries: int
    transfer: int


@dataclass(frozen=True)
class Header:
    """What a film is.

    path            where it is
    width, height   of its frames as they are stored, in pixels
    pixel_format    FFmpeg's name; `bits` of it
    codec           FFmpeg's name
    colours         what the film says of them
    display_matrix  how frames are turned for display, nine numbers; None: not at all
    rate            frames a second, on the average
    frames          how many there are, by what the container says; 0 if it does not
    video           number of the stream that is dehazed
    interlaced      whether the even lines of a frame were taken at another time than the odd ones
    """

    path: str
    width: int
    height: int
    pixel_format: str
    bits: int
    codec: str
    colours: Colours
    display_matrix: tuple[int, ...] | None
    rate: Fraction
    frames: int
    video: int
    interlaced: bool

    @property
    def rgb(self) -> str:
        """Format of the pixels in memory."""
        return "rgb48le" if self.bits > 8 else "rgb24"

    @property
    def frame_bytes(self) -> int:
        """Of a frame in memory."""
        return self.width * self.height * (6 if self.bits > 8 else 3)

    @property
    def conversion(self) -> dict[str, int]:
        """Matrix and range of its numbers, those that players take where the film does not say."""
        guess = BT709 if self.height >= HD_HEIGHT else BT601
        return {"colorspace": MATRICES.get(self.colours.matrix, guess), "color_range": self.colours.range or LIMITED}


@dataclass(frozen=True)
class Frame:
    """A frame: pixels (H, W, 3), uint8 or uint16, RGB of full range, None if they are not wanted; when and for how long
    it is shown.
    """

    pixels: np.ndarray | None
    pts: int
    duration: int


def read_header(path: str | os.PathLike[str], *, max_pixels: int = images.MAX_PIXELS) -> Header:
    """What a film is, from its headers and first frame.

    Raises:
        ImageError: if PyAV is not installed, and for what is no film, has transparency or frames of too many pixels.
    """
    with opened(path) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise images.fault(path, "has no pictures in it, only other streams")
        size = (stream.codec_context.width, stream.codec_context.height)
        if size[0] * size[1] > max_pixels:
            pixels = f"has frames of {size[0]} x {size[1]} pixels; --max-pixels allows {max_pixels}"
            raise images.fault(path, pixels)
        frame = next((frame for _, frame in _decoded(container, stream, path) if frame is not None), None)
        if frame is None:
            raise images.fault(path, "holds no frame that can be decoded; get another copy of the file")
        components = frame.format.components
        if any(component.is_alpha for component in components):
            raise images.fault(path, f"has transparency ({frame.format.name}), which is not supported; remove it first")
        matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        name = frame.format.name
        full = name.startswith("yuvj") or frame.format.is_rgb
        return Header(
            path=os.fspath(path),
            width=frame.width,
            height=frame.height,
            pixel_format=name.replace("yuvj", "yuv"),
            bits=max(component.bits for component in components),
            codec=stream.codec_context.codec.canonical_name,
            colours=Colours(
                FULL if full else int(frame.color_range),
                int(frame.colorspace),
                int(frame.color_primaries),
                int(frame.color_trc),
            ),
            display_matrix=tuple(np.frombuffer(matrix, np.int32).tolist()) if matrix is not None else None,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            frames=_count(stream, container),
            video=stream.index,
            interlaced=frame.interlaced_frame,
        )


def _count(stream: Any, container: Any) -> int:
    if stream.frames or not stream.average_rate:
        return int(stream.frames)
    if stream.duration:
        return round(stream.duration * stream.time_base * stream.average_rate)
    return round((container.duration or 0) / 1_000_000 * stream.average_rate)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The film, open in PyAV. ImageError if it cannot be."""
    av = pyav(path)
    with _readable(av, path):
        container = av.open(os.fspath(path), metadata_errors="replace")
    with container:
        yield container


@contextmanager
def _readable(av: Any, path: object) -> Iterator[None]:
    """What FFmpeg cannot read in the block is an ImageError."""
    try:
        yield
    except av.FFmpegError as error:
        reason = error.strerror or str(error)
        raise images.fault(path, f"cannot be read as a film ({reason}); get another copy of the file") from error


def _decoded(container: Any, stream: Any, path: object) -> Iterator[tuple[Any, Any]]:
    """(packet, None) of the other streams and (None, frame) of this one, in the order of the file."""
    av, lost = pyav(path), 0
    stream.thread_type = "AUTO"
    packets = container.demux()
    while True:
        with _readable(av, path):
            packet = next(packets, None)
        if packet is None:
            break
        if packet.stream.index != stream.index:
            if packet.size:  # the last one of a stream is empty
                yield packet, None
            continue
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            lost += 1  # those around it can be good
            continue
        for frame in frames:
            yield None, frame
    if lost:
        logger.warning(f"{path}: {lost} damaged frames are left out; those before them are shown for longer")


def read(header: Header, container: Any, *, passed: int = 0) -> Generator[Any]:
    """The frames of an open film, as `Frame`, and the packets of its other streams, in the order of the file.

    Args:
        passed: so many frames at its beginning come without their pixels.

    Raises:
        ImageError: for frames of another size.
    """
    av = pyav(header.path)
    stream = container.streams[header.video]
    convert, flags = av.video.reformatter.VideoReformatter(), exact(av)
    step = max(1, round(1 / (header.rate * stream.time_base)))
    before, count = None, 0
    for packet, frame in _decoded(container, stream, header.path):
        if frame is None:
            yield packet
            continue
        if (frame.width, frame.height) != (header.width, header.height):
            sizes = f"{frame.width} x {frame.height} after {header.width} x {header.height} pixels"
            raise images.fault(header.path, f"has frames of {sizes}; cut it there")
        pts = frame.pts if frame.pts is not None else 0 if before is None else before + step
        if before is not None and pts <= before:  # no encoder takes a film that goes back in time
            pts = before + 1
        before, count = pts, count + 1
        if count <= passed:
            yield Frame(None, pts, frame.duration or step)
            continue
        pixels = convert.reformat(
            frame,
            format=header.rgb,
            **{f"src_{name}": value for name, value in header.conversion.items()},
            dst_color_range=FULL,
            interpolation=flags,
            threads=1,
        ).to_ndarray()
        yield Frame(pixels, pts, frame.duration or step)


def exact(av: Any) -> Any:
    """How FFmpeg is to convert: so that numbers that go to RGB and back are what they were.

    Each pixel has the chroma of the sample beside it on the way there, and the way back takes that same sample. FFmpeg's
    quick conversions darken by 1 of 255.
    """
    way = av.video.reformatter.Interpolation
    return way.POINT | way.ACCURATE_RND | way.FULL_CHR_H_INT
