"""What Ctrl-C (SIGINT) does to the `famkern` command: one line and exit code 130, from its first moment to its last.

Imports next to nothing, so that `at_once` is in force before anything else is imported.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

CODE = 130
LINE = "famkern: interrupted"


def at_once() -> None:
    """Let an interruption end the process, while nothing has begun that would have to be finished.

    Not as an exception, for what is being imported may catch that or drop it. Where SIGINT is ignored, as a shell has it
    for what its scripts run in the background, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def as_exception() -> None:
    """Let an interruption be a KeyboardInterrupt again, after `at_once`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignored() -> None:
    """Let no more interruption change the exit code: the end is near. Python's own end keeps to this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(_received: int, _frame: FrameType | None) -> None:
    os.write(2, f"{LINE}\n".encode())
    os._exit(CODE)
