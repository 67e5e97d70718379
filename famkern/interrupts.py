"""Ctrl-C at a command: one line and exit code 130, from its first moment to its last."""

import os
import signal

EXIT_CODE = 130


def end_at_once() -> None:
    """From now on, as long as nothing was begun. Where it is ignored, as in the background of a script, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_errors() -> None:
    """From now on, KeyboardInterrupt: there is something to be ended well."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """From now on: the end is near, whoever asks again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(*_: object) -> None:
    os.write(2, b"famkern: interrupted\n")
    os._exit(EXIT_CODE)
