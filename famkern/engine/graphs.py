"""Runs of the same picture size again and again, as CUDA graphs: one call of the driver instead of hundreds.

    first picture of a size     runs as it is: kernels are compiled, libraries get what they need
    second                      the same run, with pictures that stay, is done once more, captured, and replayed
    later                       copied in, replayed, copied out

What is captured is what would run, so the bits are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from .checks import Checks

MOST = 4  # picture sizes that are kept

Compute = Callable[[Tensor, Tensor], Checks]  # from one picture (H, W, 3) into another

_CAPTURING = threading.Lock()  # PyTorch captures one graph at a time in a process


class Place:
    """Where the graphs of one device work: the same memory for all, which takes the same stream."""

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)


class CapturedRun:
    """A run with pictures of its own, which can be replayed.

    Args:
        compute: the run.
        before, after: pictures of the size and kind that it is for.
        place: of their device.
    """

    def __init__(self, compute: Compute, before: Tensor, after: Tensor, place: Place) -> None:
        self._before, self._after = torch.empty_like(before).copy_(before), torch.empty_like(after)
        # Kernels are made for how memory is aligned, too, and none can be loaded in a capture.
        compute(self._before, self._after).look()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on calling CUDA meanwhile.
        capture = torch.cuda.graph(self._graph, pool=place.pool, stream=place.stream, capture_error_mode="thread_local")
        with _CAPTURING, torch.cuda.device(before.device), capture:
            self._checks = compute(self._before, self._after)

    def __call__(self, before: Tensor, after: Tensor) -> None:
        """Replay it from one picture into another; done when this returns."""
        with torch.cuda.device(before.device):
            self._before.copy_(before)
            self._graph.replay()
            after.copy_(self._after)
            self._checks.look()


class Graphs:
    """The runs of the picture sizes that came last; the one that was not used for longest goes first.

    For several threads: replays happen one after another, each done before the next begins. Therefore all graphs can
    work in the same memory: nothing in it is used after its replay.

    Args:
        most: sizes that are kept.
        capture, place: make what is replayed, and where it works.
    """

    def __init__(
        self,
        most: int = MOST,
        capture: Callable[[Compute, Tensor, Tensor, Any], Callable] = CapturedRun,
        place: Callable[[torch.device], Any] = Place,
    ) -> None:
        self._most, self._capture, self._place = most, capture, place
        self._runs: dict[Hashable, Callable | None] = {}  # None: ran once. The one used last stands last
        self._places: dict[torch.device, Any] = {}
        self._lock = threading.Lock()

    def replay(self, key: Hashable, before: Tensor, after: Tensor) -> bool:
        """Run what was captured under this key; False if there is nothing."""
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                return False
            self._use(key, run)
            run(before, after)
            return True

    def run(self, key: Hashable, compute: Compute, before: Tensor, after: Tensor) -> None:
        """Compute; if it is the second time under this key, captured from now on.

        Raises:
            ValueError: whatever `compute` requires and does not hold.
        """
        with self._lock:
            if key in self._runs:
                run = self._runs.pop(key)
                if run is None:
                    if before.device not in self._places:
                        self._places[before.device] = self._place(before.device)
                    run = self._capture(compute, before, after, self._places[before.device])
                self._use(key, run)
                run(before, after)
                return
        compute(before, after).look()
        with self._lock:  # not before: in another thread a capture would meet kernels that are yet to be loaded
            self._use(key, self._runs.get(key))

    def _use(self, key: Hashable, run: Callable | None) -> None:
        self._runs.pop(key, None)
        self._runs[key] = run
        while len(self._runs) > self._most:
            del self._runs[next(iter(self._runs))]


def key_of(before: Any, device: torch.device) -> Hashable | None:
    """What a graph for this picture, computed on this device, is known by; None where it must run as it is.

    A graph is for a tensor that already lies on the GPU: its copies in and out must not wait for the host.
    """
    if device.type != "cuda" or getattr(before, "device", None) != device:
        return None
    return tuple(before.shape), before.dtype, device
