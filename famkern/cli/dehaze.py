"""`famkern dehaze`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import batch, cluster, images
from ..dehazer import SCALE, Dehazer
from . import pipes
from .engines import HERE, Engine
from .options import DeviceOption, DtypeOption, ModelOption, ScaleOption, ThreadsOption, WindowOption, parse_scale
from .pipes import PIPE
from .report import Report, appended
from .terminal import end_interrupted, fail, log_to_terminal, progress_bar, wrong_usage


def dehaze(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Files, folders or patterns; - for standard input.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="A folder; or, for one input file, a file, or -.")
    ],
    model: ModelOption = "student",
    strength: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0: unchanged, 1: full effect; up to 2: more than that.")
    ] = 1.0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    memory: Annotated[str | None, typer.Option(help='Bound on the memory used, such as "1GiB".')] = None,
    threads: ThreadsOption = None,
    window: WindowOption = None,
    scale: ScaleOption = str(SCALE),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs, which are skipped otherwise.")
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Descend into subfolders.")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(batch.FORMATS), help="Format and extension of the outputs. Default: each input's."
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Quality of JPEG, AVIF and lossy WebP. Default: 95.")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Added to the name of each output.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Also write NAME-compare.jpg, before | after.")] = False,
    codec: Annotated[
        str | None,
        typer.Option(help="Codec of films: h264, hevc, vp9, av1, or an encoder of FFmpeg. Default: each input's."),
    ] = None,
    crf: Annotated[
        int | None, typer.Option(help="Quality of films; lower is better. Default: by codec, 20 to 30.")
    ] = None,
    transmission: Annotated[
        bool,
        typer.Option(
            "--transmission", help="Also write NAME-transmission.png, an estimate: white where there is no haze."
        ),
    ] = False,
    mask: Annotated[
        Path | None, typer.Option(help="A grey picture, as large as the inputs: white is dehazed, black stays.")
    ] = None,
    keep_time: Annotated[
        bool, typer.Option("--keep-time", help="Give outputs the times of change of their inputs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what fails.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each file.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Append a line of JSON for each file to this file: sizes, times, memory, errors."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that reading or writing a picture may take. Default: no limit.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local: this machine; ray: the machines of a Ray cluster.")] = HERE,
    address: Annotated[
        str | None,
        typer.Option(help="Address of the Ray cluster: HOST:PORT, or auto. Default: Ray starts on this machine alone."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on the Ray cluster. Default: as many as it has room for.")
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse pictures of more pixels.")] = images.MAX_PIXELS,
) -> None:
    """Remove haze from pictures of any size, and from films.

    Pictures: JPEG, PNG, WebP, TIFF, BMP and AVIF; read only: JPEG XL, HEIF (HEIC) and camera RAW.

    Exit code: 0 if all went well, 1 if a file failed (the others are done), 2 for wrong usage, 130 after Ctrl-C.

    Maps that do not fit --memory go to a file on disk, in $FAMKERN_SPILL_DIR if that is set, and so do a TIFF's pixels.
    """
    log_to_terminal(quiet=quiet)
    told = Report(quiet=quiet, json=json, dry_run=dry_run, silent=output == PIPE)
    with ExitStack() as stack:
        with wrong_usage():
            if output == PIPE and (compare or transmission or json or dry_run):
                raise ValueError(
                    "- (standard output) takes a picture, and goes without --compare, --transmission, --json, --dry-run"
                )
            options = batch.Options(
                overwrite=overwrite,
                format=format,
                quality=quality,
                suffix=suffix,
                compare=compare,
                transmission=transmission,
                max_pixels=max_pixels,
                memory=memory,
                mask=mask,
                keep_time=keep_time,
                dry_run=dry_run,
                codec=codec,
                crf=crf,
                timeout=timeout,
            )
            where = Engine(engine, address, workers)
            where.check([*inputs, output], device)
            streams = stack.enter_context(pipes.streams(inputs, output, format))
            told.named = streams.named
            try:
                jobs = batch.plan_jobs(streams.inputs, streams.output, recursive=recursive, options=options)
            except ValueError as error:
                raise ValueError(streams.named(str(error))) from error
            at = {"device": device, "dtype": dtype, "threads": threads, "window": window, "scale": parse_scale(scale)}
            dehazer = Dehazer(model, strength=strength, **at)  # type: ignore[arg-type]
            dehaze_files = stack.enter_context(where.running())
            if report is not None:
                told.file = stack.enter_context(appended(report))
            bar = stack.enter_context(progress_bar(len(jobs), hidden=quiet))
            task = bar.add_task("", total=len(jobs), name="")

            def progress(job: batch.Job, fraction: float) -> None:
                bar.update(task, completed=told.total + fraction, name=escape(images.printable(job.source.name)))

            outcomes = dehaze_files(jobs, dehazer, options, progress)
        try:
            for outcome in outcomes:
                told.add(outcome)
                bar.update(task, completed=told.total)
        except KeyboardInterrupt:
            bar.stop()
            end_interrupted(f"interrupted; {told.done} of {len(jobs)} pictures are done and kept")
        except cluster.ClusterError as error:
            bar.stop()
            fail(f"{error}; {told.done} of {len(jobs)} pictures are done and kept", code=1)
    told.close(output)
    if told.failed:
        raise typer.Exit(1)
