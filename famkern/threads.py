"""PyTorch's number of CPU threads, which is one for the whole process, changed for a while by several callers at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_callers = 0  # that have changed the number and are not done
_original = 0  # the number before the first of them came


@contextlib.contextmanager
def use(count: int | None) -> Iterator[None]:
    """Compute with this many CPU threads; None for the number that nobody has changed.

    However callers overlap, each computes with its own number, and when all are done the process has the one it had before.
    (Each thread of the process has a number of its own, which a new thread takes from the process.)
    """
    global _callers, _original  # noqa: PLW0603
    with _lock:
        # Asked first: a thread takes the process's number, which may be another caller's by then, over its own when it
        # computes or asks for the first time.
        current = torch.get_num_threads()
        if count is None:
            if _callers and current != _original:
                torch.set_num_threads(_original)
        else:
            if not _callers:
                _original = current
            _callers += 1
            torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            with _lock:
                torch.set_num_threads(_original)
                _callers -= 1
