"""What planning and running talk about: the wishes for outputs, one file to do, and what became of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .. import images, video
from ..engine import parse_bytes

FORMATS = {suffix.removeprefix("."): name for suffix, name in images.SUFFIXES.items()}  # what --format takes


class Skip(str, Enum):
    """Why a file is not done although nothing is wrong with it."""

    THERE = "there already"
    OUTPUT = "the output for another input"
    FOLDER = "in the output folder"
    TWICE = "given twice"
    FORMAT = "of a format that is not read"


@dataclass(frozen=True)
class Options:
    """How outputs are named and written.

    Args:
        overwrite: replace existing outputs instead of skipping them.
        format: format of all outputs, one of FORMATS in any case, which is also their extension; None for each input's
            own.
        quality: 1..100 of JPEG and lossy WebP outputs; None for the default of `famkern.images.write`.
        suffix: put between the stem and the extension of each output.
        compare: also write NAME-compare.jpg, hazy left and clear right.
        transmission: also write NAME-transmission.png, 16-bit grey: how much light came through the haze, by
            `Dehazer.transmission`; .tif beside a TIFF, with its place on the ground. It is 0 where there are no data.
        max_pixels: refuse larger pictures.
        memory: bound in bytes (or text such as "1GiB") on everything that processing a picture allocates: the picture
            itself, the maps, the buffers of the codecs. None: as `Dehazer`.
        mask: a grey picture of the size of each input (upright): white is dehazed, black stays, between them the blend.
        keep_time: outputs get their inputs' time of modification.
        dry_run: find out what can be known beforehand, and write nothing.
        codec, crf: of films, see `famkern.video.dehaze_film`.
        timeout: seconds that reading or writing a picture may take; a file on a network folder that does not answer is then
            reported, and the next one begun. None: as long as it takes.
    """

    overwrite: bool = False
    format: str | None = None
    quality: int | None = None
    suffix: str = ""
    compare: bool = False
    transmission: bool = False
    max_pixels: int = images.MAX_PIXELS
    memory: int | str | None = None
    mask: str | os.PathLike[str] | None = None
    keep_time: bool = False
    dry_run: bool = False
    codec: str | None = None
    crf: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format.lower() not in FORMATS:
            raise ValueError(f"format is one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is a number from 1 to 100, not {self.quality}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is a number of 1 or more, not {self.max_pixels}")
        if os.sep in self.suffix:
            raise ValueError(f"suffix is part of a file name, without {os.sep!r}: {self.suffix!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {self.timeout}")
        if self.crf is not None and not 0 <= self.crf <= video.MOST_CRF:
            raise ValueError(f"crf is a number from 0 to {video.MOST_CRF}, not {self.crf}")
        if self.codec is not None:
            video.encoder_of(self.codec, self.crf)
        if self.memory is not None:
            parse_bytes(self.memory)

    def output_name(self, source: Path) -> str:
        """File name of the output for this input."""
        if video.is_film(source.suffix):
            extension = source.suffix if source.suffix.lower() in video.CONTAINERS else video.OTHERWISE
        elif self.format is not None:
            extension = f".{self.format}"
        else:
            known = source.suffix.lower()
            extension = source.suffix if known in images.SUFFIXES else images.suffix_of(images.READ_SUFFIXES.get(known))
        return f"{source.stem}{self.suffix}{extension}"


@dataclass(frozen=True)
class Job:
    """One file to do. `skip` or `problem` says why it will not or cannot be done, where that is known beforehand."""

    source: Path
    target: Path
    compare: Path | None = None  # where before | after goes
    transmission: Path | None = None  # where the map of haze goes
    skip: Skip | None = None
    problem: str | None = None

    @property
    def is_film(self) -> bool:
        """Whether it is a film, not a picture."""
        return video.is_film(self.source.suffix)

    @property
    def outputs(self) -> list[Path]:
        """All files that it writes."""
        return [path for path in self.named_outputs.values() if path]

    @property
    def named_outputs(self) -> dict[str, Path | None]:
        """Them by what they are."""
        return {"target": self.target, "compare": self.compare, "transmission": self.transmission}


@dataclass(frozen=True)
class Measured:
    """What a picture took.

    Args:
        width, height: in pixels.
        seconds: by step: "read", "dehaze", "write". Steps of several pictures overlap.
        peak_bytes: resident memory of the process at its greatest so far.
    """

    width: int
    height: int
    seconds: dict[str, float]
    peak_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job: exactly one of done, skipped and failed (then `problem` is one line that names the file).

    In a dry run, done means that nothing speaks against it, and `disk` are the bytes that spill files would take meanwhile.
    `measured` is there for pictures that were dehazed.
    """

    job: Job
    done: bool = False
    skipped: Skip | None = None
    problem: str | None = None
    measured: Measured | None = None
    disk: int = 0


def comparison(target: Path) -> Path:
    """Where before | after of this output goes."""
    return target.with_name(f"{target.stem}-compare.jpg")


def haze_map(target: Path) -> Path:
    """Where the map of transmission of this output goes."""
    suffix = target.suffix if images.SUFFIXES.get(target.suffix.lower()) == "TIFF" else ".png"
    return target.with_name(f"{target.stem}-transmission{suffix}")
