"""Files that are there whole or not at all.

A file is written beside its place, as .famkern-NUMBER.part, and then moved. Its writer holds a lock on it, which ends
with the process however that ends: what nobody holds was left by a run that was killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from .picture import fault

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

ADVICE = "check the folder, its permissions and the disk"
TEMPORARY = ".famkern-*.part"


@contextmanager
def replacing(path: str | PathLike[str], *, lasting: bool = False) -> Iterator[BinaryIO]:
    """A new file, open for reading and writing, that takes the place of `path` if the block ends well. Its folder is made.

    `lasting`: not before it is on the disk, so that even a power failure leaves one of the two whole.

    Raises ImageError if it cannot be written, with the system's reason.
    """
    target = os.path.realpath(path)  # a link stays a link, to the new file
    if os.path.isdir(target):
        raise fault(path, "is a folder; name a file")
    with writing(path):
        folder = Path(target).parent
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
        file, made = temporary(folder)
        try:
            with file:
                yield file
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(made, target)
        except BaseException:
            made.unlink()
            raise


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """What the system refuses in the block is an ImageError for `path`, with the system's reason."""
    try:
        yield
    except OSError as error:
        raise fault(path, f"cannot be written ({error.strerror or error}); {ADVICE}") from error


def check_writable(path: str | PathLike[str]) -> None:
    """Raise ImageError if it is known beforehand that `path` cannot be written: a folder, or in one that is read-only.

    Folders that are not there yet are to be created.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise fault(path, "is a folder; name a file" if target.is_dir() else "is not a regular file; name another")
    folder = next(parent for parent in target.parents if parent.exists())
    if not folder.is_dir():
        raise fault(path, f"cannot be written ({folder} is a file); {ADVICE}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise fault(path, f"cannot be written ({folder} is read-only or not yours); {ADVICE}")


def remove_dead(folder: Path) -> None:
    """Remove the temporary files in this folder whose writers are dead."""
    for path in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError):  # locked, gone meanwhile, or somebody else's: none is in the way
            if fcntl is None:
                path.unlink()
                continue
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def temporary(folder: Path) -> tuple[BinaryIO, Path]:
    """A new file that this process has locked, open for reading and writing; OSError if there can be none."""
    while True:
        path = folder / TEMPORARY.replace("*", secrets.token_hex(8))
        # Mode "x" never opens what is there, and leaves the permissions to the umask, which mkstemp does not.
        file = open(path, "x+b")  # noqa: SIM115
        if fcntl is None:
            return file, path
        with contextlib.suppress(OSError):  # of file systems without locks; there nothing is taken for dead either
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, path
        except FileNotFoundError:
            pass  # another process took it for dead before it was locked
        file.close()
