"""The `famkern` command."""

from __future__ import annotations

import gc
import importlib
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__, interruption

# What the list of commands says of each: the first paragraph of its help. The command itself, in a module of that name,
# is imported when it is asked for: it needs PyTorch, which takes seconds to import.
COMMANDS = {
    "dehaze": "Remove haze from pictures of any size, and from films.",
    "info": "Show versions, devices, the kernels in use and why, and the weights that come with famkern.",
    "evaluate": "Measure PSNR and SSIM of a model on pairs of hazy and clear pictures, beside those of the hazy input.",
    "bench": "Measure the speed and memory of famkern on this machine's CPU, beside PyTorch and what else is installed.",
    "synthesize": "Make hazy pictures as training does, but none without haze: OUT/hazy, OUT/clear, OUT/transmission "
    "(16-bit grey).",
    "export": "Write a network as ONNX, or as a program of torch.export, for programs that run without famkern.",
    "serve": "Offer a web page that removes haze from pictures, on this machine unless --host says otherwise.",
    "train": "Train networks from photographs.",
}


class Commands(TyperGroup):
    """The commands of this table, each a module of its own, that end with one line where they are interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run the one that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            interruption.ignored()
            print(interruption.LINE, file=sys.stderr)
            raise typer.Exit(interruption.CODE) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and arguments of what was asked for; up to here the command is its line in the table."""
        name, _, rest = super().resolve_command(ctx, args)
        command = name and load(name)
        if not gc.isenabled():  # whoever has disabled it owns the process, and what was imported stays
            gc.freeze()
            gc.enable()
        interruption.as_exception()
        return name, command, rest


def load(name: str) -> Any:
    """The command of that name, imported."""
    command = getattr(importlib.import_module(f".{name}", __name__), name)
    if not isinstance(command, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command()(command)
        command = alone
    return typer.main.get_command(command)


app = typer.Typer(
    cls=Commands,
    help="Remove haze from photographs of any size.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"famkern {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that belong to no command."""


def main() -> None:
    """Run the command line."""
    # As exceptions, so that whoever stops us finds no half-written file. Windows has no hang-up.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda received, _frame: sys.exit(128 + received))
    try:
        app(prog_name="famkern")
    finally:
        interruption.ignored()
