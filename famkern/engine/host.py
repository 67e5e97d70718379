"""Maps of a run on a GPU that do not fit its memory: in the host's, a few bands at a time on the GPU.

Bands come in and go out on streams of their own, while the GPU computes others:

    into     | 1 | 2 | 3 | 4 |                 band i + 1 comes in before band i is computed
    compute      | 1 | 2 | 3 | 4 |
    out              | 1 | 2 | 3 | 4 |         what was computed goes out beside the next one

The next stage begins when the last band of this one has gone out. Rows that go out are none that this stage still reads
(plan.py), so that within a stage nothing else waits for the host's memory. The host itself never waits.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch
from torch import Tensor

from .plan import Plan


class Stream(Protocol):
    """Work in order, beside that of other streams."""

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy when everything before is done."""

    def mark(self) -> Any:
        """This moment, for others to wait for."""

    def wait(self, moment: Any) -> None:
        """Go on when a moment of another stream has come."""


class CudaStream:
    """A stream of a GPU; without `stream` one of its own."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self._stream = stream or torch.cuda.Stream(device)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy when everything before is done."""
        with torch.cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)

    def mark(self) -> torch.cuda.Event:
        """This moment, for others to wait for."""
        return self._stream.record_event()

    def wait(self, moment: torch.cuda.Event) -> None:
        """Go on when a moment of another stream has come."""
        self._stream.wait_event(moment)


def streams_of(device: torch.device) -> tuple[Stream, Stream, Stream]:
    """Into the GPU, compute (the current one) and out."""
    current = CudaStream(device, torch.cuda.current_stream(device))
    return CudaStream(device), current, CudaStream(device)


class HostStorage:
    """Maps in pinned memory of the host; bands pass through buffers on the device.

    Args:
        plan: of the run, with `slots` buffers for each map of a band.
        device: where it is computed.
        streams: into the device, compute, and out.
    """

    def __init__(self, plan: Plan, device: torch.device, streams: tuple[Stream, Stream, Stream]) -> None:
        self.plan = plan
        self._into, self._compute, self._out = streams
        self._arena = torch.empty(plan.map_bytes, dtype=torch.uint8, device="cpu", pin_memory=device.type == "cuda")
        # Each with the moment from which it may be written again. The oldest is taken first: its moment is long past.
        self._free: deque[tuple[Tensor, Any]] = deque(
            (torch.empty(plan.band_bytes, dtype=torch.uint8, device=device), None)
            for _ in range(plan.slots * plan.passing)
        )
        # The device's memory may be that of a tensor which is freed, but still read by what was started before.
        self._into.wait(self._compute.mark())
        self._coming: dict[tuple[str, int, int], tuple[Tensor, Any]] = {}  # rows of a map -> buffer, moment of arrival
        self._read: list[Tensor] = []  # buffers of the band that is being computed
        self._written: dict[str, Tensor] = {}

    def close(self) -> None:
        """The maps are no longer needed: what comes after on the device waits for the copies."""
        self._compute.wait(self._into.mark())
        self._compute.wait(self._out.mark())

    def prefetch(self, name: str, start: int, stop: int) -> None:
        """Have rows that will be read next on their way."""
        buffer = self._take(self._into)
        self._into.copy(self._view(buffer, name, start, stop), self._rows(name, start, stop))
        self._coming[name, start, stop] = buffer, self._into.mark()

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start..stop of a map: (1, rows, W, C)."""
        if (name, start, stop) not in self._coming:  # a stage begins: what the one before stored must have arrived
            self._into.wait(self._out.mark())
            self.prefetch(name, start, stop)
        buffer, arrival = self._coming.pop((name, start, stop))
        self._compute.wait(arrival)
        self._read.append(buffer)
        return self._view(buffer, name, start, stop)

    def target(self, name: str, start: int, stop: int) -> Tensor:
        """A tensor (1, rows, W, C) to write rows start..stop of a map into; `store` it afterwards."""
        self._written[name] = self._take(self._compute)
        return self._view(self._written[name], name, start, stop)

    def release(self) -> None:
        """What was read for the last band is not needed by what is computed from now on."""
        done = self._compute.mark()
        self._free.extend((buffer, done) for buffer in self._read)
        self._read.clear()

    def store(self, name: str, start: int, stop: int, band: Tensor) -> None:
        """Keep what was written into the target."""
        self._out.wait(self._compute.mark())
        self._out.copy(self._rows(name, start, stop), band)
        self._free.append((self._written.pop(name), self._out.mark()))

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of a map in the arena."""
        return self._view(self._arena[self.plan.byte(name, start) :], name, start, stop)

    def _view(self, memory: Tensor, name: str, start: int, stop: int) -> Tensor:
        """Rows start..stop of a map that this memory begins with."""
        rows = memory[: (stop - start) * self.plan.row_bytes(name)]
        return rows.view(self.plan.line.maps[name].dtype).view(self.plan.shape(name, stop - start))

    def _take(self, stream: Stream) -> Tensor:
        """A buffer that this stream will write."""
        buffer, moment = self._free.popleft()
        if moment is not None:
            stream.wait(moment)
        return buffer
