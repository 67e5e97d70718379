"""Worker: what runs in each process of a cluster. It does a handful of jobs as `dehaze_files` does them anywhere."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .. import __version__
from ..batch import Job, Options, Outcome, dehaze_files
from ..dehazer import Dehazer


class Worker:
    """A Dehazer on the CPUs or the GPU that this process was given.

    Args:
        dehazer: does the work, with the device and the threads that are meant for this process.
        options: of the outputs.
        folder: that relative names start from; None if there are none.
        version: of the famkern that sends the jobs.
    """

    def __init__(self, dehazer: Dehazer, options: Options, folder: str | None, version: str) -> None:
        self._dehazer, self._options = dehazer, options
        self._folder, self._version = folder, version
        self._lines = _Lines()
        logging.getLogger("famkern").handlers = [self._lines]

    def introduce(self, paths: Sequence[Path]) -> str | None:
        """What speaks against this worker, in words that follow the name of its machine; None if nothing does.

        A machine that does not see the files would fail every one of them, and quickly, so that it would get most of them.

        Args:
            paths: files that are there, which must be seen from here too.
        """
        machine = socket.gethostname()
        if self._version != __version__:
            return f"{machine} has famkern {__version__}, not {self._version}"
        if self._dehazer.device is not None and self._dehazer.device.type == "cuda" and not torch.cuda.is_available():
            return f"PyTorch {torch.__version__} of {machine} finds no CUDA device"
        if self._folder is not None:
            if not os.path.isdir(self._folder):
                return f"{machine} does not see the folder {self._folder}, where relative names start"
            os.chdir(self._folder)
        for path in paths:
            if not os.path.exists(path):
                return f"{machine} does not see {path}; inputs and outputs lie where all machines see them"
        return None

    def dehaze(self, jobs: Sequence[Job]) -> Iterator[tuple[list[str], Outcome]]:
        """The outcome of each job, in their order, when it is there, and what was logged meanwhile.

        Temporary files of others stay: they may belong to a worker on another machine, whose locks are not seen here on
        every file system.
        """
        for outcome in dehaze_files(jobs, self._dehazer, self._options, tidy=False):
            yield self._lines.taken(), outcome


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())

    def taken(self) -> list[str]:
        """The lines since this was last asked."""
        lines, self._kept = self._kept, []
        return lines
