"""connected(): a Ray cluster, and the workers that do jobs there."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from .. import __version__, images
from ..batch import Job, Options, Outcome
from ..batch.running import checked_mask
from ..dehazer import Dehazer
from . import ClusterError
from .layout import Layout, layout
from .work import Work
from .worker import Worker

STARTS = 3  # for each worker that there is to be, so many may fail to start
PATIENCE = 60.0  # seconds without a worker after which a line says what is waited for
KNOCK = 10.0  # seconds that a cluster has to answer
DYING = 10.0  # seconds that a process may take to end
OBJECTS = 100 * 2**20  # bytes of Ray's store of objects on this machine: only weights and outcomes go through it

logger = logging.getLogger("famkern")


@contextmanager
def connected(address: str | None = None) -> Iterator[Cluster]:
    """A Ray cluster, which is left at the end; one that was started for this ends.

    Args:
        address: HOST:PORT, or "auto" for the cluster that this machine is in. None: what $RAY_ADDRESS says if it is set;
            otherwise Ray is started on this machine alone. A program that is connected already stays so.

    Raises:
        ValueError: if there is no cluster at this address.
    """
    ours = not ray.is_initialized()
    if ours:
        _connect(address or os.environ.get("RAY_ADDRESS") or "local")
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.end()
        if ours:
            ray.shutdown()


def _connect(address: str) -> None:
    if "://" in address:
        raise ValueError(f"address is HOST:PORT or auto, not {address!r}; run the command on a machine of the cluster")
    if ":" in address:
        _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECTS} if address == "local" else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"Ray cannot be reached at {address}: {' '.join(str(error).split())}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own ends the process before anything is cleaned up
    # Ray prints a paragraph on standard output, where a report may go, for each worker that dies, and has no option for it.
    ray._private.worker._worker_logs_enabled = False


def _knock(address: str) -> None:
    """Raise ValueError where nobody listens, which Ray itself would try for many minutes, with a line every few seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"no Ray cluster at {address} ({reason}); see `ray status` on its first machine") from error


class Cluster:
    """Machines that do jobs; made by `connected`."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def dehaze_files(
        self, jobs: Sequence[Job], dehazer: Dehazer, options: Options | None = None, *, workers: int | None = None
    ) -> Iterator[Outcome]:
        """Dehaze files when their outcomes are asked for; one that fails is reported, the others are done.

        Args:
            jobs: from `plan_jobs`. All machines must see inputs and outputs under these names.
            dehazer: does the work, as in `famkern.batch.dehaze_files`. Its device says on what, its `threads` on how many
                CPUs a worker runs; see `layout`.
            options: of the outputs; `memory` bounds each worker.
            workers: how many; None for as many as the cluster has room for.

        Returns:
            An iterator of an Outcome for each job, in the order in which they end. One that is interrupted gives those that
            are there first, and raises when it is asked for the next.

        Raises:
            ImageError, ValueError: as `famkern.batch.dehaze_files`; also if there is no room for a worker.
            ClusterError: from the iterator, if no worker can be started.
        """
        options = options or Options()
        checked_mask(dehazer, options)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        run = _Run(Work(jobs, options), dehazer, options, layout(machines, dehazer, workers))
        self._runs.append(run)
        return run.outcomes()

    def end(self) -> None:
        """Let all workers go, whatever they are doing."""
        for run in self._runs:
            run.end()


@dataclass(eq=False)
class _Hand:
    """A worker, as it is seen from here."""

    actor: Any
    answer: Any  # what comes next: what it says of itself, then the outcomes of a handful; None while it is idle
    ready: bool = False
    given: int = 0  # files of its handful
    left: deque[Job] = field(default_factory=deque)  # those of them whose outcomes are to come


class _Run:
    """Jobs, and the workers that do them."""

    def __init__(self, work: Work, dehazer: Dehazer, options: Options, plan: Layout) -> None:
        self._work, self._dehazer, self._options, self._plan = work, dehazer, options, plan
        self._hands: list[_Hand] = []
        self._refusals = 0
        self._logged: set[str] = set()
        self._marker: tuple[BinaryIO, Path] | None = None  # shows in the folder of outputs that all see the same one
        self._untidy: set[Path] = set()  # folders in which workers died

    def outcomes(self) -> Iterator[Outcome]:
        """In the order in which they end."""
        yield from self._work.foregone()
        if not self._work:
            return
        try:
            self._begin()
            while self._work or any(hand.left for hand in self._hands):
                for hand in [hand for hand in self._hands if hand.answer is None]:
                    yield from self._work.foregone()
                    self._give(hand)
                yield from self._next()
        except (KeyboardInterrupt, SystemExit):
            yield from self._told_already()
            raise
        finally:
            self.end()

    def end(self) -> None:
        """Let the workers go, and remove what those have left that were busy."""
        for hand in self._hands:
            self._let_go(hand)
        self._hands.clear()
        if self._marker:
            file, path = self._marker
            file.close()
            path.unlink(missing_ok=True)
            self._marker = None
        until = time.monotonic() + DYING
        while self._untidy and time.monotonic() < until:
            for folder in self._untidy:
                images.remove_dead(folder)
            self._untidy = {folder for folder in self._untidy if any(folder.glob(images.TEMPORARY))}
            if self._untidy:
                time.sleep(0.02)  # a process that is killed holds its locks until it is gone

    def _begin(self) -> None:
        """Make ready what all workers need, and start them."""
        job, place = self._work.next, self._work.next.target.parent
        seen = [job.source]
        if not self._options.dry_run:
            for folder in self._work.folders():
                images.remove_dead(folder)
            with contextlib.suppress(OSError):  # of which every file will tell
                place.mkdir(parents=True, exist_ok=True)
                self._marker = images.temporary(place)
                seen.append(self._marker[1])
        relative = not all(path.is_absolute() for path in seen)
        dehazer = copy.copy(self._dehazer)
        dehazer.threads, dehazer.device = self._plan.cpus, torch.device("cuda" if self._plan.gpus else "cpu")
        self._seen = seen
        self._arguments = ray.put(dehazer), self._options, os.getcwd() if relative else None, __version__
        self._actor = ray.remote(Worker).options(
            num_cpus=self._plan.cpus, num_gpus=self._plan.gpus, scheduling_strategy="SPREAD"
        )
        for _ in range(min(self._plan.workers, len(self._work))):
            self._hire()

    def _hire(self) -> None:
        actor: Any = self._actor.remote(*self._arguments)
        self._hands.append(_Hand(actor, actor.introduce.remote(self._seen)))

    def _give(self, hand: _Hand) -> None:
        """A handful, if there is any."""
        if jobs := self._work.handful(self._plan.workers):
            hand.given, hand.left = len(jobs), deque(jobs)
            hand.answer = hand.actor.dehaze.options(num_returns="streaming").remote(jobs)

    def _next(self) -> Iterator[Outcome]:
        """Wait until a worker says something, and do what follows from it."""
        answers = [hand.answer for hand in self._hands if hand.answer is not None]
        said, _ = ray.wait(answers, num_returns=1, timeout=PATIENCE)
        if not said:
            if not any(hand.ready for hand in self._hands):
                takes = f"{self._plan.cpus} CPUs" + (" and a GPU" if self._plan.gpus else "")
                self._log(f"waiting for room in the cluster: a worker takes {takes}")
            return
        hand = next(hand for hand in self._hands if hand.answer == said[0])
        try:
            word = ray.get(next(hand.answer) if hand.ready else hand.answer)
        except StopIteration:
            hand.answer = None
            if hand.left:
                yield from self._lost(hand, "it ended too early")
        except RayError as error:
            yield from self._lost(hand, _reason(error))
        else:
            if hand.ready:
                yield self._outcome(hand, word)
            elif word is not None:
                yield from self._lost(hand, word)
            else:
                hand.ready, hand.answer = True, None

    def _outcome(self, hand: _Hand, word: tuple[list[str], Outcome]) -> Outcome:
        lines, outcome = word
        hand.left.popleft()
        for line in lines:
            self._log(line)
        return self._work.told(outcome)

    def _lost(self, hand: _Hand, reason: str) -> Iterator[Outcome]:
        """Go on without a worker, with another in its place."""
        if not hand.ready:
            self._refusals += 1
            self._log(f"a worker does not start: {reason}")
        elif hand.left:
            logger.warning(f"a worker is lost ({reason}); its files are done again: {len(hand.left)}")
        self._hands.remove(hand)
        self._let_go(hand)
        yield from self._work.returned(hand.left, alone=hand.given == 1, reason=reason)
        if self._work and self._refusals < STARTS * self._plan.workers:
            self._hire()
        if self._work and not self._hands:
            raise ClusterError(f"no worker can be started: {reason}")

    def _let_go(self, hand: _Hand) -> None:
        ray.kill(hand.actor)
        self._untidy |= {path.parent for job in hand.left for path in job.outputs}

    def _told_already(self) -> Iterator[Outcome]:
        """The outcomes that are here, without waiting."""
        for hand in self._hands:
            with contextlib.suppress(StopIteration, RayError):
                while hand.ready and hand.left and ray.wait([hand.answer], timeout=0)[0]:
                    yield self._outcome(hand, ray.get(next(hand.answer)))

    def _log(self, line: str) -> None:
        """Once, however many workers say it."""
        if line not in self._logged:
            self._logged.add(line)
            logger.warning(line)


def _reason(error: RayError) -> str:
    """Why a worker is no more, in a few words."""
    if isinstance(error, OutOfMemoryError):
        return "its machine ran out of memory"
    if isinstance(error, NodeDiedError):
        return "its machine was lost"
    if isinstance(error, RayTaskError):
        return str(error).strip().splitlines()[-1]
    return "its process died" if isinstance(error, RayActorError) else " ".join(str(error).split())
