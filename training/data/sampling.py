"""Which samples each step consists of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One sample of one optimisation step: the key of all its randomness, and the side of its crop in pixels."""

    step: int
    sample: int
    size: int


@dataclass(frozen=True)
class Phase:
    """Steps that draw alike.

    until   the phase ends at this fraction of all steps, in (0, 1]
    size    side of the crops, in pixels
    batch   samples in a step, over all devices
    """

    until: float
    size: int
    batch: int


class StepSampler(Sampler[list[Draw]]):
    """The draws of this rank, step after step: a `batch_sampler` for a DataLoader over HazePairs or SharpCrops.

    Args:
        phases: in their order, `until` rising to 1.
        steps: of the whole run.
        first_step: the step to begin with, of a run that is resumed.
        rank: of this process; it takes the samples rank, rank + world, ... of each step.
        world: number of processes.

    Raises:
        ValueError: for phases that do not cover the run, a batch that `world` does not divide, or numbers out of range.
    """

    def __init__(self, phases: Sequence[Phase], steps: int, first_step: int = 0, rank: int = 0, world: int = 1) -> None:
        ends = [phase.until for phase in phases]
        if not ends or ends[-1] != 1 or ends[0] <= 0 or any(a >= b for a, b in pairwise(ends)):
            raise ValueError(f"phases end at {ends} of the run; fractions that rise from above 0 to exactly 1 expected")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}; 0 to {world - 1} expected")
        if not 0 <= first_step <= steps:
            raise ValueError(f"first step {first_step} of {steps}; 0 to {steps} expected")
        for phase in phases:
            if phase.size < 1 or phase.batch < 1:
                raise ValueError(f"{phase}: size and batch of at least 1 expected")
            if phase.batch % world:
                raise ValueError(f"a batch of {phase.batch} does not divide by {world} processes; choose a multiple")
        self.phases, self.steps, self.first_step, self.rank, self.world = list(phases), steps, first_step, rank, world

    def __len__(self) -> int:
        """The number of steps left."""
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.first_step, self.steps):
            phase = next(phase for phase in self.phases if step < phase.until * self.steps)
            yield [Draw(step, sample, phase.size) for sample in range(self.rank, phase.batch, self.world)]
