"""`famkern dehaze`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from rich.markup import escape

from .. import batch, images
from ..dehazer import Dehazer
from .options import DeviceOption, DtypeOption, ModelOption, ThreadsOption, WindowOption
from .tally import Tally
from .terminal import complain, fail, log_to_terminal, out, progress_bar, wrong_usage

Format = Enum("Format", {name: name for name in batch.FORMATS}, type=str)  # type: ignore[misc]


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
    window: WindowOption = None,
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
    log_to_terminal()
    options_format = format.value if format else None
    with wrong_usage():
        options = batch.Options(overwrite, options_format, quality, suffix, compare, max_pixels, memory)
        jobs = batch.plan_jobs(inputs, output, recursive=recursive, options=options)
        dehazer = Dehazer(model, strength=strength, device=device, dtype=dtype, threads=threads, window=window)
    tally = Tally()
    with progress_bar(len(jobs)) as bar:
        task = bar.add_task("", total=len(jobs), name="")

        def progress(job: batch.Job, fraction: float) -> None:
            bar.update(task, completed=tally.total + fraction, name=escape(job.source.name))

        try:
            for outcome in batch.dehaze_files(jobs, dehazer, options, progress):
                tally.add(outcome)
                bar.update(task, completed=tally.total)
                if outcome.problem:
                    complain(outcome.problem)
        except KeyboardInterrupt:
            bar.stop()
            fail(f"interrupted; {tally.done} of {len(jobs)} pictures are done and kept", code=130)
    if out.is_terminal:
        out.print(f"{tally}: {escape(str(output))}", highlight=False, soft_wrap=True)
    elif tally.reasons(noteworthy=True):
        complain(f"skipped: {tally.reasons(noteworthy=True)}")
    if tally.failed:
        raise typer.Exit(1)
