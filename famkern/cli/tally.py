"""How many files were done, skipped and failed, in words."""

from __future__ import annotations

from collections import Counter

from ..batch import Outcome, Skip

HINTS = {Skip.THERE: "--overwrite replaces them"}


class Tally:
    """Counts outcomes; done, skipped and failed add up to all."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self.skips: Counter[Skip] = Counter()
        self.formats: Counter[str] = Counter()  # suffixes of what was skipped for its format

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self.done += outcome.done
        self.failed += outcome.problem is not None
        if outcome.skipped:
            self.skips[outcome.skipped] += 1
            if outcome.skipped is Skip.FORMAT:
                self.formats[outcome.job.source.suffix.lower()] += 1

    @property
    def skipped(self) -> int:
        """How many were skipped, for any reason."""
        return self.skips.total()

    @property
    def total(self) -> int:
        """How many there were."""
        return self.done + self.skipped + self.failed

    def reasons(self, *, noteworthy: bool = False) -> str:
        """Why files were skipped, and how many; if `noteworthy`, without those that were done before."""
        parts = []
        for skip, count in sorted(self.skips.items()):
            if noteworthy and skip is Skip.THERE:
                continue
            hint = HINTS.get(skip)
            if skip is Skip.FORMAT:
                hint = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.formats.items()))
            parts.append(f"{count} {skip.value}" + (f" ({hint})" if hint else ""))
        return "; ".join(parts)

    def __str__(self) -> str:
        skipped = f"{self.skipped} skipped" + (f": {self.reasons()}" if self.skipped else "")
        return f"{self.done} done, {self.failed} failed, {skipped}"
