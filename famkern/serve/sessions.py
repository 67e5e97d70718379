"""Sessions: each visitor's files in a folder of their own, which goes with the visitor.

FOLDER/SESSION/UPLOAD/NAME              a picture as it came
FOLDER/SESSION/UPLOAD/RESULT/NAME       dehazed, and what the page shows of it beside; a new result takes its place

SESSION, UPLOAD and RESULT are drawn at random. The key of a session is not the name of its folder: who knows a path, which
is in every link, does not have the key, which is in a cookie.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

GRACE = 60.0  # seconds for which a session goes on without a request in progress, as while a page is reloaded
LEFT = 5.0  # seconds without one, after which nobody waits for a picture any more
UPLOADS = 4  # of a session, such as its pages in several windows; the oldest make room
MOST = 256  # sessions at a time
NAME_LENGTH = 100  # characters; 255 bytes end the names of most file systems
FORBIDDEN = set('/\\:*?"<>|')


class CrowdedError(Exception):
    """There are as many sessions as there may be, all in use."""


@dataclass(eq=False)
class Session:
    """One visitor: a browser, until its last page is closed."""

    folder: Path
    requests: int = 0  # in progress; an open page always has one
    seen: float = field(default_factory=time.monotonic)  # when one began or ended last
    uploads: list[Path] = field(default_factory=list)  # folders, the oldest first

    def find(self, path: str) -> Path | None:
        """The file of this session that `path` is; None for anything else."""
        try:
            real = os.path.realpath(path)
        except ValueError:  # a zero byte
            return None
        inside = real.startswith(f"{self.folder}{os.sep}")
        return Path(real) if inside and os.path.isfile(real) else None

    def is_left(self, seconds: float = LEFT) -> bool:
        """Whether no request has been in progress for so long."""
        return not self.requests and time.monotonic() - self.seen > seconds

    def take(self, name: str, file: BinaryIO) -> Path:
        """Keep an uploaded file, in place of the oldest if there are many."""
        path = drawn(self.folder) / safe_name(name)
        self.uploads.append(path.parent)
        while len(self.uploads) > UPLOADS:
            remove(self.uploads.pop(0))
        with path.open("wb") as kept:
            shutil.copyfileobj(file, kept, 1 << 20)
        return path

    def remove_older(self, seconds: float) -> None:
        """Remove the uploads to which nothing was added for so many seconds, and their results."""
        limit = time.time() - seconds
        for path in list(self.uploads):
            with contextlib.suppress(OSError, ValueError):  # it made room meanwhile
                if path.stat().st_ctime < limit:
                    self.uploads.remove(path)
                    remove(path)


class Sessions:
    """Sessions by their keys; may be used from several threads.

    Args:
        folder: where theirs are made.
        keep: seconds after which files go, whether a page still shows them or not.
    """

    def __init__(self, folder: Path, *, keep: float) -> None:
        self._folder, self._keep = Path(os.path.realpath(folder)), keep
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: str | None) -> Session | None:
        """The session of this key, if there is one."""
        return self._sessions.get(key or "")

    def new(self) -> tuple[str, Session]:
        """A new session and its key, in place of one without a page if there are many.

        Raises:
            CrowdedError: if all have one.
        """
        with self._lock:
            if len(self._sessions) >= MOST:
                idle = [key for key, session in self._sessions.items() if not session.requests]
                if not idle:
                    raise CrowdedError
                self._end(min(idle, key=lambda key: self._sessions[key].seen))
            key = secrets.token_urlsafe(32)
            self._sessions[key] = Session(self._folder / secrets.token_urlsafe(16))
            return key, self._sessions[key]

    @contextmanager
    def using(self, session: Session) -> Iterator[None]:
        """Around a request: as long as one is in progress, the session stays."""
        self._count(session, 1)
        try:
            yield
        finally:
            self._count(session, -1)

    def sweep(self) -> None:
        """End the sessions whose pages are closed, and remove what is too old of the others."""
        with self._lock:
            for key, session in list(self._sessions.items()):
                if session.is_left(GRACE):
                    self._end(key)
            rest = list(self._sessions.values())
        for session in rest:
            session.remove_older(self._keep)

    def _count(self, session: Session, change: int) -> None:
        with self._lock:
            session.requests += change
            session.seen = time.monotonic()

    def _end(self, key: str) -> None:
        remove(self._sessions.pop(key).folder)


def drawn(folder: Path) -> Path:
    """A new folder in this one, whose name nobody can guess."""
    path = folder / secrets.token_urlsafe(16)
    path.mkdir(parents=True, mode=0o700)
    return path


def remove(folder: Path) -> None:
    """Remove a folder and all in it, whatever is left of it."""
    shutil.rmtree(folder, ignore_errors=True)


def safe_name(name: str) -> str:
    """A file name for what a browser calls `name`: its last part, without what some system or page takes for more."""
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(character for character in last if character.isprintable() and character not in FORBIDDEN)
    stem, suffix = os.path.splitext(kept.lstrip(". "))
    return (stem[: NAME_LENGTH - len(suffix[:10])] or "picture") + suffix[:10]
