"""What the commands say, and how they end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import images, interruption, models

out = Console()
err = Console(stderr=True)


def progress_bar(count: int, *, hidden: bool = False) -> Progress:
    """A progress bar on standard error; silent where that is no terminal, or if it is to be hidden."""
    return Progress(
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn() if count > 1 else TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=hidden or not err.is_terminal,
    )


def log_to_terminal(*, quiet: bool = False) -> None:
    """Show what famkern logs (spilled maps, missing kernels) as single lines on standard error, or if quiet, nothing."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complain(record.getMessage())

    logging.getLogger("famkern").handlers = [logging.NullHandler() if quiet else Handler()]


def complain(line: str) -> None:
    """One line on standard error."""
    err.print(images.printable(f"famkern: {line}"), markup=False, highlight=False, soft_wrap=True)


def fail(line: str, code: int) -> NoReturn:
    """End with one line and this exit code."""
    complain(line)
    raise typer.Exit(code)


def end_interrupted(line: str) -> NoReturn:
    """End with one line, and as an interrupted command does; further interruptions change nothing."""
    interruption.ignored()
    fail(line, code=interruption.CODE)


@contextmanager
def wrong_usage() -> Iterator[None]:
    """End with one line: exit code 1 for weights that cannot be used, 2 for arguments."""
    try:
        yield
    except models.WeightsError as error:
        fail(str(error), code=1)
    except (ValueError, TypeError, FileNotFoundError) as error:
        fail(str(error), code=2)


@contextmanager
def training_installed() -> Iterator[None]:
    """End with one line and exit code 2 where what training needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing: pip install 'famkern[training]'", code=2)
