"""Files for what does not fit the memory bound: without a name, unbuffered, gone with the process however that ends.

Memory-mapped files would be simpler, but their pages count as resident memory.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .memory import format_bytes

IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}  # file systems that would put what is spilled back into RAM


class SpillFile:
    """So many bytes in a file, until it is closed or nobody refers to it.

    Args:
        folder: on a real disk, see `spill_folder`.
        size: in bytes.

    Raises:
        OSError: if there is no room.
    """

    def __init__(self, folder: Path, size: int) -> None:
        # Unlinked at once (or never linked at all), so that the space comes back even after a crash.
        self._file: Any = tempfile.TemporaryFile(dir=folder, prefix="famkern-", buffering=0)  # noqa: SIM115
        self.close = weakref.finalize(self, self._file.close)
        if hasattr(os, "posix_fallocate"):  # elsewhere a disk that fills up meanwhile shows when it is written
            os.posix_fallocate(self._file.fileno(), 0, max(1, size))

    def __enter__(self) -> SpillFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, place: int, view: memoryview) -> None:
        """Fill a view of bytes with those from `place` on."""
        self._file.seek(place)
        while view:
            count = self._file.readinto(view)
            if count == 0:
                raise OSError("the spill file is shorter than what was written to it")
            view = view[count:]

    def write(self, place: int, view: memoryview) -> None:
        """Put these bytes at `place`."""
        self._file.seek(place)
        while view:
            view = view[self._file.write(view) :]


class SpilledArray:
    """An array in a file: slices of its rows are read as NumPy arrays, copies, and written.

    Args:
        file: with room for it.
        shape: (H, ...)
        dtype: of its numbers.
    """

    def __init__(self, file: SpillFile, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.ndim = len(self.shape)
        self._file = file
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        band = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        self._file.read(start * self._row_bytes, _bytes_of(band))
        return band

    def __setitem__(self, rows: slice, values: Any) -> None:
        start, stop, _ = rows.indices(len(self))
        whole = np.broadcast_to(values, (max(0, stop - start), *self.shape[1:]))
        self._file.write(start * self._row_bytes, _bytes_of(np.ascontiguousarray(whole, self.dtype)))


def _bytes_of(band: np.ndarray) -> memoryview:
    return band.reshape(-1).view(np.uint8).data


def spilled_arrays(size: int) -> Callable[[Sequence[int], DTypeLike], SpilledArray]:
    """What makes arrays on disk, from shape and dtype, as numpy.empty does in memory.

    Args:
        size: bytes of all of them and of what else will be spilled meanwhile.

    Raises:
        OSError: if no folder on a real disk has room for so much.
    """
    folder = spill_folder(size)

    def empty(shape: Sequence[int], dtype: DTypeLike) -> SpilledArray:
        return SpilledArray(SpillFile(folder, math.prod(shape) * np.dtype(dtype).itemsize), shape, dtype)

    return empty


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
        f"what does not fit the memory bound needs {format_bytes(size)} on disk, but "
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
