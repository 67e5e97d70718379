"""What `famkern dehaze` says of the files: as they end, and how many were done, skipped and failed in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.markup import escape

from .. import images, video
from ..batch import Outcome, Skip
from ..engine import format_bytes
from .terminal import complain, out

HINTS = {Skip.THERE: "--overwrite replaces them"}
NO_SUFFIX = "without a suffix"


@contextmanager
def appended(path: Path) -> Iterator[TextIO]:
    """A text file to add lines to; a ValueError if it cannot be written."""
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}); choose another file for the report") from error
    with file:
        yield file


@dataclass
class Report:
    """Counts outcomes, and tells of them; done, skipped and failed add up to all.

    quiet     of failures only
    json      of each file, a line of JSON on standard output: source, target, compare, transmission, status (done, skipped,
              failed, or in a dry run to do) and reason; of pictures that were dehazed width, height, seconds by step,
              megapixels a second of dehazing, and the process's peak of memory in bytes; in a dry run disk, the bytes
              that spill files would take
    file      the same lines, here
    dry_run   of each file, a line on standard output that says what would become of it
    silent    never on standard output, where a picture goes
    named     what to say for the names of files, where others than the user's stand in
    """

    quiet: bool = False
    json: bool = False
    dry_run: bool = False
    silent: bool = False
    file: TextIO | None = None
    named: Callable[[str], str] = str
    done: int = 0
    failed: int = 0
    skips: Counter[Skip] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)  # suffixes of what was skipped for its format

    @property
    def skipped(self) -> int:
        """How many were skipped, for any reason."""
        return self.skips.total()

    @property
    def total(self) -> int:
        """How many there were."""
        return self.done + self.skipped + self.failed

    def add(self, outcome: Outcome) -> None:
        """Count one and tell of it."""
        job = outcome.job
        self.done += outcome.done
        self.failed += outcome.problem is not None
        if outcome.skipped:
            self.skips[outcome.skipped] += 1
            if outcome.skipped is Skip.FORMAT:
                self.formats[job.source.suffix.lower() or NO_SUFFIX] += 1
        if outcome.problem:
            complain(self.named(outcome.problem))
        line = json.dumps(self._fields(outcome))
        if self.file:
            print(line, file=self.file, flush=True)
        if self.json:
            print(line, flush=True)
        elif self.dry_run and not self.quiet and not outcome.problem:
            what = f": skipped, {outcome.skipped.value}" if outcome.skipped else f" -> {job.target}"
            if outcome.disk:
                what += f" ({format_bytes(outcome.disk)} on disk meanwhile)"
            print(images.printable(self.named(f"{job.source}{what}")), flush=True)

    def close(self, output: str) -> None:
        """Tell how many there were."""
        if self.quiet or self.json:
            return
        if out.is_terminal and not self.silent:
            skipped = f"{self.skipped} skipped" + (f": {self._reasons(self.skips)}" if self.skips else "")
            told = f"{self.done} {self._verb}, {self.failed} failed, {skipped}"
            out.print(escape(images.printable(f"{told} ({output})")), highlight=False, soft_wrap=True)
        elif noteworthy := [skip for skip in self.skips if skip is not Skip.THERE]:
            complain(f"skipped: {self._reasons(noteworthy)}")

    def _fields(self, outcome: Outcome) -> dict[str, Any]:
        """What a line of JSON says."""
        job, took = outcome.job, outcome.measured
        paths = {"source": job.source}
        if outcome.done:
            paths |= {name: path for name, path in job.named_outputs.items() if path}
        reason = outcome.problem or (outcome.skipped and outcome.skipped.value)
        fields: dict[str, Any] = {name: self.named(str(path)) for name, path in paths.items()}
        fields["status"] = "failed" if outcome.problem else "skipped" if outcome.skipped else self._verb
        if reason:
            fields["reason"] = self.named(reason)
        if outcome.disk:
            fields["disk"] = outcome.disk
        if took:
            speed = took.width * took.height / 1e6 / took.seconds["dehaze"]
            seconds = {step: round(value, 4) for step, value in took.seconds.items()}
            fields |= {"width": took.width, "height": took.height, "seconds": seconds}
            fields |= {"megapixels_per_second": round(speed, 4), "peak_bytes": took.peak_bytes}
        return fields

    @property
    def _verb(self) -> str:
        return "to do" if self.dry_run else "done"

    def _reasons(self, skips: Iterable[Skip]) -> str:
        parts = []
        for skip in sorted(skips):
            hint = HINTS.get(skip)
            if skip is Skip.FORMAT:
                hint = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.formats.items()))
                if any(suffix in images.READ_SUFFIXES for suffix in self.formats):
                    hint += f"; {images.INSTALL} reads {', '.join(images.NEEDS)}"
                if any(video.is_film(suffix) for suffix in self.formats):
                    hint += f"; {video.INSTALL} reads films"
            parts.append(f"{self.skips[skip]} {skip.value}" + (f" ({hint})" if hint else ""))
        return "; ".join(parts)
