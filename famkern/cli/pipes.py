"""`-` for standard input and standard output: files in a temporary folder stand in for them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import images

PIPE = "-"


@dataclass(frozen=True)
class Streams:
    """What to read and write instead of what was given."""

    inputs: Sequence[str]
    output: str
    folder: str | None = None

    def named(self, text: str) -> str:
        """`text` with the user's names for the files that stand in for streams."""
        if self.folder is None:
            return text
        for name in ("stdin", "stdout"):
            start = os.path.join(self.folder, name)
            while (at := text.find(start)) >= 0:
                end = at + len(start)
                while end < len(text) and (text[end].isalnum() or text[end] == "."):
                    end += 1
                text = text[:at] + f"standard {name.removeprefix('std')}put" + text[end:]
        return text


@contextmanager
def streams(inputs: Sequence[str], output: str, format: str | None) -> Iterator[Streams]:
    """Take standard input in, and at the end put what was written for standard output out.

    Raises:
        ValueError: if a picture is to come from or go to a stream together with others, or to a terminal.
    """
    if PIPE not in inputs and output != PIPE:
        yield Streams(inputs, output)
        return
    if PIPE in inputs and len(inputs) > 1:
        raise ValueError("- (standard input) is one picture, and goes without other inputs")
    if output == PIPE and (len(inputs) > 1 or os.path.isdir(inputs[0])):
        raise ValueError("- (standard output) takes one picture; give one input file")
    if output == PIPE and sys.stdout.isatty():
        raise ValueError("- (standard output) is a terminal; send it to a program or a file")
    with tempfile.TemporaryDirectory(prefix="famkern-") as folder:
        source = inputs[0]
        if source == PIPE:
            taken = Path(folder, "stdin")
            with taken.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            source = str(_by_its_content(taken))
        target = output
        if output == PIPE:
            suffix = f".{format}" if format else images.suffix_of(_format(source))
            target = os.path.join(folder, f"stdout{suffix}")
        yield Streams([source], target, folder)
        if output == PIPE and os.path.exists(target):
            with open(target, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _by_its_content(file: Path) -> Path:
    """The file, renamed after its content. Camera RAWs are known by a suffix only, and any of these will do."""
    if _format(file) is None:
        raw = file.rename(file.with_suffix(".dng"))
        if _format(raw):
            return raw
        file = raw.rename(file)
    return file.rename(file.with_suffix(images.suffix_of(_format(file))))


def _format(path: str | os.PathLike[str]) -> str | None:
    """By the content of a picture; None for what is none, of which reading it will tell."""
    try:
        return images.header(path).format
    except images.ImageError:
        return None
