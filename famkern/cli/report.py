"""What `famkern dehaze` says of the files: as they end, and how many were done, skipped and failed in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.markup import escape

from .. import images, video
from ..batch import Outcome, Skip
from .terminal import complain, out

HINTS = {Skip.THERE: "--overwrite replaces them"}


@dataclass
class Report:
    """Counts outcomes, and tells of them; done, skipped and failed add up to all.

    quiet     of failures only
    json      of each file, a line of JSON on standard output: source, target, compare, transmission, status (done, skipped,
              failed, or in a dry run to do) and reason
    dry_run   of each file, a line on standard output that says what would become of it
    silent    never on standard output, where a picture goes
    """

    quiet: bool = False
    json: bool = False
    dry_run: bool = False
    silent: bool = False
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
                self.formats[job.source.suffix.lower()] += 1
        if outcome.problem:
            complain(outcome.problem)
        if self.json:
            paths = (
                {"source": job.source, "target": job.target, "compare": job.compare, "transmission": job.transmission}
                if outcome.done
                else {}
            )
            fields = {name: str(path) for name, path in ({"source": job.source} | paths).items() if path}
            status = "failed" if outcome.problem else "skipped" if outcome.skipped else self._verb
            reason = outcome.problem or (outcome.skipped and outcome.skipped.value)
            print(json.dumps(fields | {"status": status} | ({"reason": reason} if reason else {})), flush=True)
        elif self.dry_run and not self.quiet and not outcome.problem:
            what = f": skipped, {outcome.skipped.value}" if outcome.skipped else f" -> {job.target}"
            print(images.printable(f"{job.source}{what}"), flush=True)

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
