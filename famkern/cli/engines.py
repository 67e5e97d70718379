"""Where `famkern dehaze` does its work: on this machine, or on the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .. import batch, cluster
from ..dehazer import Dehazer
from .pipes import PIPE

HERE, RAY = "local", "ray"
Dehazing = Callable[[Sequence[batch.Job], Dehazer, batch.Options, batch.Progress], Iterator[batch.Outcome]]


@dataclass(frozen=True)
class Engine:
    """What does the work.

    Args:
        name: "local", or "ray".
        address: of a Ray cluster; None for what $RAY_ADDRESS says, or Ray on this machine alone.
        workers: how many; None for as many as there is room for.

    Raises:
        ValueError: naming what is wrong.
    """

    name: str = HERE
    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.name not in (HERE, RAY):
            raise ValueError(f"engine is {HERE} or {RAY}, not {self.name!r}")
        if self.name == HERE and (self.address is not None or self.workers is not None):
            raise ValueError("--address and --workers are of a cluster; give --engine ray with them")

    def check(self, names: Sequence[str], device: str | None) -> None:
        """Raise ValueError for inputs and outputs, or a device, that no worker has."""
        if self.name == RAY and PIPE in names:
            raise ValueError("- (standard input and output) is of this process alone; leave --engine ray out")
        if self.name == RAY and device and device.startswith("cuda:"):
            raise ValueError(
                f"device is cuda, of which each worker has its own, or cpu, not {device!r}, with --engine ray"
            )

    @contextmanager
    def running(self) -> Iterator[Dehazing]:
        """What dehazes files.

        Raises:
            ValueError: if there is no cluster, or no Ray.
        """
        if self.name == HERE:
            yield batch.dehaze_files
            return
        try:
            from ..cluster.connection import connected
        except ModuleNotFoundError as error:
            raise ValueError(f"{error.name} is missing: {cluster.INSTALL}") from error
        with connected(self.address) as machines:
            yield lambda jobs, dehazer, options, progress: machines.dehaze_files(
                jobs, dehazer, options, workers=self.workers
            )
