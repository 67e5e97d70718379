"""What must hold for a run to be right, without stopping a GPU to ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Checks:
    """Conditions of a run. On a CPU each is looked at where it comes up; on a GPU all of them together, by `look`.

    To look at a GPU's number the host waits until everything before it is done, and a graph that is being captured has no
    numbers yet.

    Args:
        device: where the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._later = device.type == "cuda"
        self._conditions: list[tuple[Tensor, Callable[[], Exception]]] = []

    def require(self, holds: Tensor, problem: Callable[[], Exception]) -> None:
        """Raise what `problem` returns unless `holds`, a boolean tensor of no dimension, is true; on a GPU not yet."""
        if self._later:
            self._conditions.append((holds, problem))
        elif not bool(holds):
            raise problem()

    def look(self) -> None:
        """Wait for the run; raise the problem of the first condition that does not hold."""
        if not self._conditions:
            return
        answers = torch.stack([holds for holds, _ in self._conditions]).tolist()
        for held, (_, problem) in zip(answers, self._conditions, strict=True):
            if not held:
                raise problem()
