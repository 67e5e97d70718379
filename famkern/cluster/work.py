"""Work: what is still to be done, in handfuls, and what becomes of files whose worker died.

A file that is bad has an outcome like any other, and is not tried again. A worker that dies tells nothing: not which of the
files in its hands it died of, nor which of them it had written. They are all done again, each alone, by whoever is free; a
file with which workers die time and again, though it is alone, is given up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .. import images
from ..batch import Job, Options, Outcome, Skip
from ..batch.running import foregone

HANDFUL = 16  # files given to a worker at once; before the first and after the last the network waits for the codecs
ATTEMPTS = 3  # workers that may die with a file alone


class Work:
    """Jobs that were not given to a worker yet, or that came back; its length is their number.

    Args:
        jobs: from `plan_jobs`.
        options: of the outputs.
    """

    def __init__(self, jobs: Sequence[Job], options: Options) -> None:
        self._options = options
        self._fresh = deque(jobs)
        self._alone: deque[Job] = deque()
        self._again: set[Job] = set()  # jobs that may be done already, by a worker that died before it told
        self._deaths: Counter[Job] = Counter()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._alone)

    @property
    def next(self) -> Job:
        """The job that comes next."""
        return (self._alone or self._fresh)[0]

    def folders(self) -> set[Path]:
        """Where outputs go."""
        return {path.parent for job in self._fresh for path in job.outputs if not (job.skip or job.problem)}

    def foregone(self) -> Iterator[Outcome]:
        """The outcomes of what comes next, as long as nothing is to be done for it."""
        while self._fresh and (outcome := foregone(self._fresh[0], self._options)):
            self._fresh.popleft()
            yield outcome

    def handful(self, workers: int) -> list[Job]:
        """Jobs for one of so many workers, one after another; fewer towards the end, so that all end together."""
        if self._alone:
            return [self._alone.popleft()]
        jobs: list[Job] = []
        size = max(1, min(HANDFUL, len(self._fresh) // (2 * workers)))
        while self._fresh and len(jobs) < size and foregone(self._fresh[0], self._options) is None:
            jobs.append(self._fresh.popleft())
        return jobs

    def returned(self, jobs: Sequence[Job], *, alone: bool, reason: str) -> Iterator[Outcome]:
        """Take back what a worker that died had not told of; gives the outcomes of what is given up.

        Args:
            jobs: these.
            alone: whether it had been given nothing else, so that it died of this, or by chance.
            reason: of its death.
        """
        self._again.update(jobs)
        for job in jobs:
            self._deaths[job] += alone
            if self._deaths[job] < ATTEMPTS:
                self._alone.append(job)
                continue
            why = f"{ATTEMPTS} workers died with it ({reason}); if memory was short, bound it by --memory"
            yield Outcome(job, problem=images.printable(f"{job.source}: {why}"))

    def told(self, outcome: Outcome) -> Outcome:
        """This outcome; that of a file which a worker wrote before it died is that it is done."""
        if outcome.skipped is Skip.THERE and outcome.job in self._again:
            return replace(outcome, done=True, skipped=None)
        return outcome
