"""What films are: suffixes, containers, encoders; and the package that reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from .. import images

INSTALL = "pip install 'famkern[video]'"

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffixes, in lower case, of films that are read and written, to the names that FFmpeg has for what they are."""

READ_SUFFIXES = frozenset([*CONTAINERS, *".avi .mpg .mpeg .mts .m2ts .wmv .flv .3gp".split()])  # noqa: SIM905
OTHERWISE = ".mkv"  # what films of the other suffixes become; it holds any codec


@dataclass(frozen=True)
class Encoder:
    """How FFmpeg encodes to a codec here."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    crf: int | None = None  # constant quality, lower is better; None: it has no such number


MOST_CRF = 63

ENCODERS = {
    "h264": Encoder("libx264", {"preset": "veryfast"}, 20),
    "hevc": Encoder("libx265", {"preset": "veryfast", "x265-params": "log-level=error"}, 22),
    "vp9": Encoder("libvpx-vp9", {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"}, 30),
    "av1": Encoder("libsvtav1", {"preset": "10"}, 30),
}
"""By the name of the codec. A film keeps its codec if that is one of them; else the first that its container holds."""


def is_film(suffix: str) -> bool:
    """Whether files of this suffix are films that can be read, if the package for it is installed."""
    return suffix.lower() in READ_SUFFIXES


def is_installed() -> bool:
    """Whether films can be read here."""
    return find_spec("av") is not None


def pyav(path: object) -> Any:
    """The package that reads and writes films. ImageError, for this file, where it is not installed."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise images.fault(path, f"needs PyAV, which is not installed: {INSTALL}") from error
    return av


def encoder_of(codec: str, crf: int | None) -> Encoder:
    """By the name of a codec, or that FFmpeg has for an encoder. ValueError for a crf where there is no such number."""
    encoder = ENCODERS.get(codec, Encoder(codec))
    if crf is not None and encoder.crf is None:
        raise ValueError(f"crf is for the codecs {', '.join(ENCODERS)}; {codec} has no such number")
    return encoder
