"""The `famkern` command."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__, batch, images, models
from .dehazer import Dehazer

if TYPE_CHECKING:
    from .training.task import Task

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
WindowOption = Annotated[
    int | None,
    typer.Option(min=0, help="Pixels over which means are taken, a multiple of 16; 0: all. Default: the model's own."),
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
    _log_to_terminal()
    options_format = format.value if format else None
    with _wrong_usage():
        options = batch.Options(overwrite, options_format, quality, suffix, compare, max_pixels, memory)
        jobs = batch.plan_jobs(inputs, output, recursive=recursive, options=options)
        dehazer = Dehazer(model, strength=strength, device=device, dtype=dtype, threads=threads, window=window)
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

    from .ops import route
    from .ops.library import instruction_set, why_not_compiled

    def show(name: str, value: str) -> None:
        print(f"{name:<12} {value}")

    try:
        kernels = _describe_cpu_kernels(instruction_set(), why_not_compiled())
        devices = (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
        gpus = {device: route.describe_gpu(device) for device in devices}
    except ValueError as error:
        _fail(str(error), code=2)
    show("famkern", __version__)
    show("Python", platform.python_version())
    show("PyTorch", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    show("CPU kernels", kernels)
    for gpu, kernels in gpus.items():
        show(str(gpu), f"{torch.cuda.get_device_name(gpu.index)}, {kernels}")
    if not gpus:
        show("CUDA", "no device found by PyTorch")
    for name in models.available():
        show("weights", models.zoo.summary(name))
        show("", f"sha256 {models.zoo.checksums()[name]}")


@app.command()
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Holds hazy/ and clear/, named as in RESIDE; for a teacher, see below."),
    ],
    model: ModelOption = "student",
    csv: Annotated[Path | None, typer.Option(help="Write the figures of each pair to this file.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    window: WindowOption = None,
) -> None:
    """Measure PSNR and SSIM of a model on pairs of hazy and clear pictures, beside those of the hazy input.

    Of a teacher, which enlarges pictures instead: PSNR on luma, beside that of bicubic enlargement. FOLDER then holds HR/
    and LRx2/, or sharp pictures, which are made small.
    """
    _log_to_terminal()
    with _training_installed():
        from .training import evaluation
    with _wrong_usage():
        network = models.load(model)
        if isinstance(network, models.Teacher):
            if csv or device or dtype or threads or window is not None:
                raise ValueError("a teacher is evaluated without --csv, --device, --dtype, --threads and --window")
            _evaluate_teacher(network, model, folder)
            return
        dehazer = Dehazer(network, device=device, dtype=dtype, threads=threads, window=window)
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


train = typer.Typer(help="Train networks from photographs.", no_args_is_help=True)
app.add_typer(train, name="train")

Preset = Enum("Preset", {name: name for name in ("default", "paper")}, type=str)  # type: ignore[misc]
Loss = Enum("Loss", {name: name for name in ("l1", "charbonnier", "mse", "psnr")}, type=str)  # type: ignore[misc]
Scale = Enum("Scale", {name: name for name in ("paper", "rms")}, type=str)  # type: ignore[misc]
Precision = Enum(  # type: ignore[misc]
    "Precision", {name: name for name in ("32-true", "64-true", "16-mixed", "bf16-mixed")}, type=str
)

FOLDERS = "FOLDER[=WEIGHT][,indoor|outdoor][,sky]"
FoldersOption = Annotated[list[str] | None, typer.Option(metavar=FOLDERS)]
RunOption = Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="The run's folder, created.")]
PresetOption = Annotated[Preset | None, typer.Option(help="What options not given are. [default: default]")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Of the optimiser; the schedules depend on it.")]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Crops in a step, over all devices.")]
CropOption = Annotated[int | None, typer.Option(min=1, help="Their side in pixels; with either, they do not grow.")]
PhaseOption = Annotated[
    list[str] | None,
    typer.Option(metavar="SIZExBATCH@UNTIL", help="Growing crops: 96x8@0.5, then 256x2@1, of all steps."),
]
LrOption = Annotated[float | None, typer.Option(help="Highest learning rate.")]
LossOption = Annotated[Loss | None, typer.Option(help="Between output and clear picture.")]
SeedOption = Annotated[int | None, typer.Option(min=0)]
AverageOption = Annotated[
    float | None, typer.Option(min=0.0, help="Decay of the moving average of the weights; 0: none.")
]
PrecisionOption = Annotated[Precision | None, typer.Option(help="Of the arithmetic, as Lightning names it.")]
ValEveryOption = Annotated[int, typer.Option(min=1, help="Steps.")]
CheckpointEveryOption = Annotated[int, typer.Option(min=1, help="Steps.")]
DevicesOption = Annotated[int, typer.Option(min=1, help="How many; each has a process and its part of every batch.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that prepare data; 0: the training process does.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with RUN; options not given are those of its recipe.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the run in RUN.")]


@train.command("student")
def train_student(
    output: RunOption,
    pairs: Annotated[list[str] | None, typer.Option(metavar=FOLDERS, help="hazy/ and clear/, as in RESIDE.")] = None,
    solved: Annotated[
        list[str] | None, typer.Option(metavar=FOLDERS, help="The same; depth is solved, haze is made anew.")
    ] = None,
    depth: Annotated[list[str] | None, typer.Option(metavar=FOLDERS, help="rgb/ and depth/.")] = None,
    photos: Annotated[
        list[str] | None, typer.Option(metavar=FOLDERS, help="Any photographs, with made-up depth.")
    ] = None,
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    crop: CropOption = None,
    phase: PhaseOption = None,
    lr: LrOption = None,
    loss: LossOption = None,
    teacher: Annotated[str | None, typer.Option(help='A name or file; "none" for no feature affinity.')] = None,
    fam_weight: Annotated[float | None, typer.Option(min=0.0, help="Of the feature affinity in the loss.")] = None,
    fam_scale: Annotated[Scale | None, typer.Option(help="See famkern.feature_affinity_loss.")] = None,
    channels: Annotated[int | None, typer.Option(help="Width of the student.")] = None,
    groups: Annotated[int | None, typer.Option(help="Of the student.")] = None,
    blocks: Annotated[int | None, typer.Option(help="In each group.")] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from: a name or file.")] = None,
    window: Annotated[
        int | None, typer.Option(min=16, help="For channel attention afterwards: at least the crops. Default: all.")
    ] = None,
    seed: SeedOption = None,
    average: AverageOption = None,
    precision: PrecisionOption = None,
    val: Annotated[Path | None, typer.Option(help="hazy/ and clear/ to validate on.")] = None,
    val_pairs: Annotated[int | None, typer.Option(min=1, help="At most so many of them, evenly spread.")] = None,
    val_every: ValEveryOption = 1000,
    checkpoint_every: CheckpointEveryOption = 500,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    workers: WorkersOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a dehazing student, with or without a teacher.

    RUN will hold student.safetensors (the averaged weights, for --model), log.csv, curves.png, samples.png, and what
    --resume needs. Folders may be given many times; each is drawn from in proportion to its WEIGHT.
    """
    _log_to_terminal()
    with _training_installed():
        from .training import distillation, evaluation, recipe, run
        from .training.task import spread
    with _wrong_usage():
        given = {"pairs": pairs, "solved": solved, "depth": depth, "photos": photos}
        folders = tuple(recipe.Folder.parse(kind, text) for kind, texts in given.items() for text in texts or [])
        chosen = recipe.student(
            preset and preset.value,
            run.resumed(output, recipe.StudentRecipe) if resume else None,
            folders=folders or None,
            steps=steps,
            batch=batch,
            crop=crop,
            phases=phase,
            lr=lr,
            loss=loss and loss.value,
            teacher=teacher,
            fam_weight=fam_weight,
            fam_scale=fam_scale and fam_scale.value,
            channels=channels,
            groups=groups,
            blocks=blocks,
            init=init,
            window=window,
            seed=seed,
            average=average,
            precision=precision and precision.value,
        )
        found = evaluation.find_pairs(val) if val else []
        task = distillation.Distillation(chosen, spread(found, val_pairs or len(found)))
    _train(
        task,
        folder=output,
        device=device,
        devices=devices,
        workers=workers,
        threads=threads,
        validate_every=val_every,
        checkpoint_every=checkpoint_every,
        resume=resume,
        overwrite=overwrite,
    )


@train.command("teacher")
def train_teacher(
    output: RunOption,
    photos: Annotated[list[str] | None, typer.Option(metavar="FOLDER", help="Sharp photographs.")] = None,
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    crop: CropOption = None,
    phase: PhaseOption = None,
    lr: LrOption = None,
    loss: LossOption = None,
    seed: SeedOption = None,
    average: AverageOption = None,
    precision: PrecisionOption = None,
    val: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="HR/ and LRx2/ to validate on, or sharp pictures.")
    ] = None,
    val_every: ValEveryOption = 1000,
    checkpoint_every: CheckpointEveryOption = 500,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    workers: WorkersOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a teacher: a x2 super-resolution network, for `famkern train student --teacher RUN/teacher.safetensors`.

    RUN will hold teacher.safetensors (the averaged weights), log.csv, curves.png, samples.png, and what --resume needs.
    Folders may be given many times. To measure a teacher: `famkern evaluate FOLDER --model RUN/teacher.safetensors`.
    """
    _log_to_terminal()
    with _training_installed():
        from .training import recipe, run, super_resolution
    with _wrong_usage():
        chosen = recipe.teacher(
            preset and preset.value,
            run.resumed(output, recipe.TeacherRecipe) if resume else None,
            folders=tuple(recipe.Folder("photos", folder) for folder in photos or []) or None,
            steps=steps,
            batch=batch,
            crop=crop,
            phases=phase,
            lr=lr,
            loss=loss and loss.value,
            seed=seed,
            average=average,
            precision=precision and precision.value,
        )
        pictures = [picture for folder in val or [] for picture in super_resolution.find_pictures(folder)]
        task = super_resolution.SuperResolution(chosen, pictures)
    _train(
        task,
        folder=output,
        device=device,
        devices=devices,
        workers=workers,
        threads=threads,
        validate_every=val_every,
        checkpoint_every=checkpoint_every,
        resume=resume,
        overwrite=overwrite,
    )


def _evaluate_teacher(teacher: models.Teacher, name: str, folder: Path) -> None:
    from .training import super_resolution

    try:
        scores = list(super_resolution.evaluate(teacher, super_resolution.find_pictures(folder)))
    except (ValueError, OSError) as error:
        _fail(str(error), code=1)
    table = Table("", "PSNR of luma", box=None, padding=(0, 2))
    table.add_row("bicubic", f"{sum(score.bicubic_psnr for score in scores) / len(scores):.2f} dB")
    table.add_row(escape(name), f"{sum(score.psnr for score in scores) / len(scores):.2f} dB")
    out.print(table, highlight=False)
    out.print(f"{len(scores)} pictures, x2; {super_resolution.RULES}", highlight=False, soft_wrap=True)


def _train(task: Task, **options: Any) -> None:
    """Run the task in a run.Session of these options, and say in one line how it ended."""
    from .training import run

    bar = _progress_bar(task.recipe.steps)
    row = bar.add_task("", total=task.recipe.steps, name="")

    def progress(step: int) -> None:
        bar.start()  # not before: other processes than the first have nothing to show
        bar.update(row, completed=step)

    session = run.Session(report=_complain, progress=progress, **options)
    try:
        run.train(task, session)
    except run.RunError as error:
        _fail(str(error), code=2)
    except (ValueError, OSError) as error:
        _fail(str(error).strip().splitlines()[-1], code=1)  # a process that prepares data tells its whole story
    except KeyboardInterrupt:
        _fail(f"interrupted; go on from the last checkpoint with --resume: {session.folder}", code=130)
    finally:
        bar.stop()
    if not run.is_first_process():
        # A worker of gloo's that still holds a tensor may abort an interpreter that shuts down; Lightning would then kill
        # the first process over its drawings.
        os._exit(0)


@contextmanager
def _training_installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install 'famkern[training]'", code=2)


Kind = Enum("Kind", {name: name for name in ("photos", "solved", "depth", "pairs")}, type=str)  # type: ignore[misc]
HazeKind = Enum("HazeKind", {name: name for name in ("indoor", "outdoor")}, type=str)  # type: ignore[misc]


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, laid out as --kind says.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="A folder, created.")],
    count: Annotated[int, typer.Option(min=1, help="Pairs to write.")] = 20,
    kind: Annotated[
        Kind,
        typer.Option(
            help="photos: any, depth is made up; depth: rgb/ and depth/; solved: hazy/ and clear/ as in RESIDE, depth is "
            "solved and the haze new; pairs: the same, as they are."
        ),
    ] = Kind.photos,  # type: ignore[attr-defined]
    haze: Annotated[HazeKind | None, typer.Option(help="Default: indoor for solved, else outdoor.")] = None,
    sky: Annotated[bool, typer.Option("--sky", help="The greatest depth in a file is sky; for --kind depth.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of all randomness.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Limit on the longer side, in pixels.")] = 1024,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing pairs; else skipped.")] = False,
) -> None:
    """Make hazy pictures as training does, but none without haze: OUT/hazy, OUT/clear, OUT/transmission (16-bit grey).

    `famkern evaluate OUT` reads them. Exit code 0 if all went well, 1 if a pair failed (the others are done).
    """
    _log_to_terminal()
    from .training import data
    from .training.data.synthesis import synthesize as pairs_of

    for option, given, kinds in (("--haze", haze, ("photos", "solved", "depth")), ("--sky", sky, ("depth",))):
        if given and kind.value not in kinds:
            _fail(f"{option} goes with --kind {', '.join(kinds)}, not {kind.value}", code=2)
    preset = getattr(data.Haze, haze.value if haze else "indoor" if kind.value == "solved" else "outdoor")
    added = dataclasses.replace(preset(), none=0.0)
    source: data.Source = {
        "photos": data.Photos(folder, haze=added),
        "solved": data.Solved(folder, haze=added),
        "depth": data.Depths(folder, haze=added, sky=sky),
        "pairs": data.Pairs(folder),
    }[kind.value]
    failed = done = skipped = 0
    try:
        with _progress_bar(count) as bar:
            task = bar.add_task("", total=count, name="")
            for outcome in pairs_of(source, output, count, seed=seed, size=size, overwrite=overwrite):
                skipped, failed = skipped + outcome.skipped, failed + bool(outcome.problem)
                done += not (outcome.skipped or outcome.problem)
                bar.update(task, advance=1, name=escape(outcome.hazy.name))
                if outcome.problem:
                    _complain(outcome.problem)
    except (ValueError, OSError) as error:
        _fail(str(error), code=1)
    except KeyboardInterrupt:
        _fail(f"interrupted; {done} of {count} pairs are done and kept", code=130)
    if out.is_terminal:
        out.print(f"{done} done, {skipped} skipped, {failed} failed: {escape(str(output))}", highlight=False)
    if failed:
        raise typer.Exit(1)


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
