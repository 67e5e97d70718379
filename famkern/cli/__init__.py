"""The `famkern` command."""

from __future__ import annotations

import signal
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from .dehaze import dehaze
from .evaluate import evaluate
from .info import info
from .synthesize import synthesize
from .terminal import fail
from .train import commands as train


class Commands(TyperGroup):
    """Commands that end with one line where they are interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run the one that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is near, whoever asks again
            fail("interrupted", code=130)


app = typer.Typer(
    cls=Commands,
    help="Remove haze from photographs of any size.",
    no_args_is_help=True,
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
