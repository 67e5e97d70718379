"""The `famkern` command."""

from __future__ import annotations

import signal
import sys

import typer

from .dehaze import dehaze
from .evaluate import evaluate
from .info import info
from .synthesize import synthesize
from .train import commands as train

app = typer.Typer(
    help="Remove haze from photographs of any size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (dehaze, info, evaluate, synthesize):
    app.command()(command)
app.add_typer(train, name="train")


def main() -> None:
    """Run the command line."""
    # As exceptions, so that whoever stops us finds no half-written file.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    app()
