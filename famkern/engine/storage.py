"""Where the maps of a run live: where it is computed, or where they do not fit the memory bound, elsewhere.

Elsewhere is the host's memory for a run on a GPU (host.py), if they fit half of what is available there, else a file.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .host import HostStorage, streams_of
from .line import Map
from .memory import available_memory, format_bytes
from .plan import Plan

logger = logging.getLogger("famkern")

IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}  # file systems that would put the spilled maps back into RAM


HUGE = 16 << 20  # bytes from which memory is asked for in huge pages: a quarter of the time to get at it at first


KEPT = 256 << 20  # bytes that stay with the process between runs: maps of about a megapixel


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor whose memory, on the CPU, goes back to the system at once when it is freed.

    The C library's allocator would keep pieces of tens of megabytes, which a memory bound must then count twice.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(_map_memory(math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def _map_memory(size: int) -> mmap.mmap:
    # Elsewhere than on Windows, which has no flags, memory would be shared with the processes that this one forks.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, size, **private)
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class Reserve:
    """The memory of the last run's maps, kept for a next run of the same size.

    The system clears every page that a process gets at first, which takes a tenth of a run. Beyond KEPT bytes it may take
    back what is kept here whenever it is short of memory; a run of another size gives it up.
    """

    def __init__(self) -> None:
        self._kept: mmap.mmap | None = None
        self._lock = threading.Lock()

    def take(self, size: int) -> mmap.mmap:
        """So many bytes."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None and len(kept) == size:
            return kept
        del kept  # before more is asked for
        return _map_memory(size)

    def give_up(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept = None

    def keep(self, memory: mmap.mmap) -> None:
        """Have it for the next run, unless one that ran beside it left some."""
        with self._lock:
            if self._kept is None:
                if len(memory) > KEPT:
                    if not hasattr(mmap, "MADV_FREE"):
                        return
                    memory.madvise(mmap.MADV_FREE)
                self._kept = memory


SPARE = Reserve()


class Storage:
    """What the loop tells every storage beside reading and storing."""

    def prefetch(self, name: str, start: int, stop: int) -> None:
        """These rows of a map are read for the next band."""

    def release(self) -> None:
        """The operator has been started on what was read for this band."""


class RamStorage(Storage):
    """Maps in an arena on the device; bands are views, nothing is copied."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan = plan
        self._memory = SPARE.take(plan.map_bytes) if device.type == "cpu" else None
        self._arena = torch.empty(plan.map_bytes, dtype=torch.uint8, device=device) if self._memory is None else None
        self._maps: dict[tuple[int, Map], Tensor] = {}  # first byte, what lies there -> all rows

    def close(self) -> None:
        """The maps are no longer needed."""
        self._maps, self._arena = {}, None
        if self._memory is not None:
            SPARE.keep(self._memory)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start..stop of a map: (1, rows, W, C)."""
        key = self.plan.places[name], self.plan.line.maps[name]
        if key not in self._maps:
            self._maps[key] = self._view(name)
        return self._maps[key][:, start:stop]

    def _view(self, name: str) -> Tensor:
        first, shape = self.plan.places[name], self.plan.shape(name, self.plan.level_of(name).height)
        dtype, count = self.plan.line.maps[name].dtype, math.prod(shape)
        if self._memory is not None:
            return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=first).view(shape)
        assert self._arena is not None
        return self._arena[first : first + count * dtype.itemsize].view(dtype).view(shape)

    def target(self, name: str, start: int, stop: int) -> Tensor:
        """A tensor (1, rows, W, C) to write rows start..stop of a map into; `store` it afterwards."""
        return self.read(name, start, stop)

    def store(self, name: str, start: int, stop: int, band: Tensor) -> None:
        """Keep what was written into the target."""


class SpillStorage(Storage):
    """Maps in an unbuffered file without a name, moved through buffers of one band.

    A memory-mapped file would be simpler, but its pages count as resident memory.
    """

    def __init__(self, plan: Plan, device: torch.device, file: BinaryIO) -> None:
        self.plan, self.device, self.file = plan, device, file

    def _bytes_of(self, band: Tensor) -> memoryview:
        return band.view(torch.uint8).numpy().data.cast("B")

    def _empty(self, name: str, rows: int, device: torch.device) -> Tensor:
        return allocate(self.plan.shape(name, rows), self.plan.line.maps[name].dtype, device)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start..stop of a map: (1, rows, W, C)."""
        band = self._empty(name, stop - start, torch.device("cpu"))
        view = self._bytes_of(band)
        self.file.seek(self.plan.byte(name, start))
        while view:
            count = self.file.readinto(view)  # type: ignore[attr-defined]  # of io.RawIOBase, which typeshed knows apart
            if count == 0:
                raise OSError("the spill file is shorter than what was written to it")
            view = view[count:]
        return band.to(self.device)

    def target(self, name: str, start: int, stop: int) -> Tensor:
        """A tensor (1, rows, W, C) to write rows start..stop of a map into; `store` it afterwards."""
        return self._empty(name, stop - start, self.device)

    def store(self, name: str, start: int, stop: int, band: Tensor) -> None:
        """Keep what was written into the target."""
        view = self._bytes_of(band.cpu())
        self.file.seek(self.plan.byte(name, start))
        while view:
            view = view[self.file.write(view) :]


@contextmanager
def open_storage(plan: Plan, device: torch.device) -> Iterator[RamStorage | HostStorage | SpillStorage]:
    """The storage that the plan asks for; whatever happens, its memory or disk space can be had again.

    Raises:
        OSError: if no folder on a real disk has room for the maps, before anything is computed.
    """
    on_host = plan.spill and device.type == "cuda" and plan.pinned_bytes <= available_memory() // 2
    if on_host or not plan.spill:
        storage = HostStorage(plan, device, streams_of(device)) if on_host else RamStorage(plan, device)
        try:
            yield storage
        finally:
            storage.close()
        return
    SPARE.give_up()
    folder = spill_folder(plan.map_bytes)
    # Unlinked at once (or never linked at all), so that the space comes back even after a crash.
    with tempfile.TemporaryFile(dir=folder, prefix="famkern-", buffering=0) as file:
        if hasattr(os, "posix_fallocate"):  # elsewhere a disk that fills up meanwhile shows when the maps are written
            os.posix_fallocate(file.fileno(), 0, plan.map_bytes)
        logger.warning(
            "the maps of %d x %d pixels do not fit the memory bound: %s go to a file in %s",
            plan.width,
            plan.height,
            format_bytes(plan.map_bytes),
            folder,
        )
        yield SpillStorage(plan, device, file)


def spill_folder(size: int) -> Path:
    """The first folder on a real disk with room for `size` bytes: $FAMKERN_SPILL_DIR alone if set, else the usual ones.

    Raises:
        OSError: if there is none, saying what was looked at.
    """
    chosen = os.environ.get("FAMKERN_SPILL_DIR")
    usual = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.home() / ".cache", Path.cwd()]
    looked_at = []
    for folder in dict.fromkeys([Path(chosen)] if chosen else usual):
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            looked_at.append(f"{folder} is not a writable folder")
        elif (kind := file_system(folder)) in IN_MEMORY:
            looked_at.append(f"{folder} is in memory ({kind})")
        elif (left := shutil.disk_usage(folder).free) < size:
            looked_at.append(f"{folder} has {format_bytes(left)}")
        else:
            return folder
    raise OSError(
        f"the maps need {format_bytes(size)} on disk, since they do not fit the memory bound, but "
        f"{'; '.join(looked_at)}. Set FAMKERN_SPILL_DIR to a folder with room, or raise the bound"
    )


def file_system(folder: Path) -> str:
    """Type of the file system that holds a folder, such as "ext4" or "tmpfs"."""
    mounts = Path("/proc/self/mountinfo")  # Linux
    if not mounts.is_file():
        return "unknown"
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return "unknown"
