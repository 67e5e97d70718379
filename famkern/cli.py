"""The `famkern` command."""

from __future__ import annotations

import logging
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__, batch, images, models
from .dehazer import Dehazer

app = typer.Typer(
    help="Remove haze from photographs of any size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

Format = Enum("Format", {name: name for name in batch.FORMATS}, type=str)  # type: ignore[misc]

ModelOption = Annotated[str, typer.Option(help="A name listed by `famkern info`, or a .safetensors, .pth or .pk file.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: CUDA if present.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="Precision of maps: float32, float16, bfloat16, float64. Default: by device.")
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads. Default: PyTorch's setting.")]


@app.command()
def dehaze(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Files, folders or patterns.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="A folder; or a file, for one input file.")
    ],
    model: ModelOption = "student",
    strength: Annotated[float, typer.Option(min=0.0, max=1.0, help="0: unchanged, 1: full effect.")] = 1.0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    memory: Annotated[str | None, typer.Option(help='Bound on the memory used, such as "1GiB".')] = None,
    threads: ThreadsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs; else skipped.")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Descend into subfolders.")] = False,
    format: Annotated[Format | None, typer.Option(help="Format of the outputs. Default: each input's.")] = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Of JPEG and lossy WebP.")] = None,
    suffix: Annotated[str, typer.Option(help="Added to the name of each output.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Also write NAME-compare.jpg, before | after.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger pictures.")] = images.MAX_PIXELS,
) -> None:
    """Remove haze from pictures: JPEG, PNG, WebP, TIFF, BMP, of any size.

    Exit code 0 if all went well, 1 if a file failed (the others are done), 2 for wrong usage, 130 after Ctrl-C. Maps that
    do not fit --memory go to a file on disk, in $FAMKERN_SPILL_DIR if that is set.
    """
    _log_to_terminal()
    options_format = format.value if format else None
    with _wrong_usage():
        options = batch.Options(overwrite, options_format, quality, suffix, compare, max_pixels, memory)
        jobs = batch.plan_jobs(inputs, output, recursive=recursive, options=options)
        dehazer = Dehazer(model, strength=strength, device=device, dtype=dtype, threads=threads)
    failed = done = skipped = 0
    with _progress_bar(len(jobs)) as bar:
        task = bar.add_task("", total=len(jobs), name="")

        def progress(job: batch.Job, fraction: float) -> None:
            bar.update(task, completed=failed + done + skipped + fraction, name=escape(job.source.name))

        try:
            for outcome in batch.dehaze_files(jobs, dehazer, options, progress):
                failed, done, skipped = failed + bool(outcome.problem), done + outcome.done, skipped + outcome.skipped
                bar.update(task, completed=failed + done + skipped)
                if outcome.problem:
                    _complain(outcome.problem)
        except KeyboardInterrupt:
            bar.stop()
            _fail(f"interrupted; {done} of {len(jobs)} pictures are done and kept", code=130)
    if out.is_terminal:
        parts = [f"{done} done"]
        if skipped:
            parts.append(f"{skipped} skipped (there already; --overwrite replaces them)")
        if failed:
            parts.append(f"{failed} failed")
        out.print(f"{', '.join(parts)}: {escape(str(output))}", highlight=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def info() -> None:
    """Show versions, devices, the kernels in use and why, and the weights that come with famkern."""
    import torch

    from .ops.library import instruction_set, why_not_compiled

    def show(name: str, value: str) -> None:
        print(f"{name:<12} {value}")

    try:
        kernels = _describe_cpu_kernels(instruction_set(), why_not_compiled())
    except ValueError as error:
        _fail(str(error), code=2)
    show("famkern", __version__)
    show("Python", platform.python_version())
    show("PyTorch", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    show("CPU kernels", kernels)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            show(f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, PyTorch's operators")
    else:
        show("CUDA", "no device found by PyTorch")
    for name in models.available():
        show("weights", models.zoo.summary(name))
        show("", f"sha256 {models.zoo.checksums()[name]}")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Holds hazy/ and clear/, named as in RESIDE.")],
    model: ModelOption = "student",
    csv: Annotated[Path | None, typer.Option(help="Write the figures of each pair to this file.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure PSNR and SSIM of a model on pairs of hazy and clear pictures, beside those of the hazy input."""
    _log_to_terminal()
    try:
        from .training import evaluation
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install 'famkern[training]'", code=2)
    with _wrong_usage():
        dehazer = Dehazer(model, device=device, dtype=dtype, threads=threads)
    try:
        pairs = evaluation.find_pairs(folder)
        scores = []
        with _progress_bar(len(pairs)) as bar:
            task = bar.add_task("", total=len(pairs), name="")
            for score in evaluation.evaluate(dehazer, pairs):
                scores.append(score)
                bar.update(task, advance=1, name=escape(score.hazy.name))
    except (ValueError, OSError) as error:
        _fail(str(error), code=1)
    table = Table("", "PSNR", "SSIM", box=None, padding=(0, 2))
    mean = evaluation.mean(scores)
    table.add_row("hazy input", f"{mean.hazy_psnr:.2f} dB", f"{mean.hazy_ssim:.4f}")
    table.add_row(escape(model), f"{mean.psnr:.2f} dB", f"{mean.ssim:.4f}")
    out.print(table, highlight=False)
    out.print(f"{len(scores)} pairs; {evaluation.RULES}", highlight=False, soft_wrap=True)
    if csv is not None:
        try:
            evaluation.write_csv(csv, scores)
        except OSError as error:
            _fail(f"{csv}: {error.strerror}", code=1)


def _describe_cpu_kernels(isa: str, reason: str | None) -> str:
    if reason:
        return f"PyTorch's operators: {reason}"
    try:
        from ._cpu import features
    except ModuleNotFoundError:
        return isa
    has = ", ".join(name for name, present in sorted(features().items()) if present)
    return f"{isa} (this CPU has {has or 'no vector extensions famkern knows'})"


def _progress_bar(count: int) -> Progress:
    """A progress bar on standard error; silent where that is no terminal."""
    return Progress(
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn() if count > 1 else TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _log_to_terminal() -> None:
    """Show what famkern logs (spilled maps, missing kernels) as single lines on standard error."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _complain(record.getMessage())

    logging.getLogger("famkern").handlers = [Handler()]
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of a damaged file, our own line says


def _complain(line: str) -> None:
    err.print(f"famkern: {line}", markup=False, highlight=False, soft_wrap=True)


def _fail(line: str, code: int) -> NoReturn:
    _complain(line)
    raise typer.Exit(code)


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """End with one line: exit code 1 for weights that cannot be used, 2 for arguments."""
    try:
        yield
    except models.WeightsError as error:
        _fail(str(error), code=1)
    except (ValueError, TypeError, FileNotFoundError) as error:
        _fail(str(error), code=2)


def main() -> None:
    """Run the command line."""
    # As exceptions, so that whoever stops us finds no half-written file.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    app()


if __name__ == "__main__":
    main()
