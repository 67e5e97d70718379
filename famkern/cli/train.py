"""`famkern train student` and `famkern train teacher`."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DeviceOption, ThreadsOption
from .terminal import complain, fail, log_to_terminal, progress_bar, training_installed, wrong_usage

if TYPE_CHECKING:
    from ..training.task import Task

train = typer.Typer(help="Train networks from photographs.", no_args_is_help=True, add_completion=False)

Preset = Enum("Preset", {name: name for name in ("default", "paper")}, type=str)  # type: ignore[misc]
Loss = Enum("Loss", {name: name for name in ("l1", "gradient", "border", "charbonnier", "mse", "psnr")}, type=str)  # type: ignore[misc]
Scale = Enum("Scale", {name: name for name in ("paper", "rms")}, type=str)  # type: ignore[misc]
Precision = Enum(  # type: ignore[misc]
    "Precision", {name: name for name in ("32-true", "64-true", "16-mixed", "bf16-mixed")}, type=str
)

FOLDERS = "FOLDER[=WEIGHT][,indoor|outdoor|reside][,sky]"
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
MinutesOption = Annotated[
    float | None, typer.Option(min=0.0, help="Stop after so many, with a checkpoint to --resume from.")
]
CompileOption = Annotated[bool, typer.Option("--compile", help="torch.compile the network, on a GPU.")]
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
    u: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS:BLOCKS[:plain]", help="A U-shaped student instead: 16,32,64:1,2,4,2,1, see models.UStudent."
        ),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from: a name or file.")] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="For channel attention afterwards: at least the crops; 0: all. Default: that of --init, else all.",
        ),
    ] = None,
    seed: SeedOption = None,
    average: AverageOption = None,
    precision: PrecisionOption = None,
    val: Annotated[Path | None, typer.Option(help="hazy/ and clear/ to validate on.")] = None,
    val_pairs: Annotated[int | None, typer.Option(min=1, help="At most so many of them, evenly spread.")] = None,
    val_every: ValEveryOption = 1000,
    checkpoint_every: CheckpointEveryOption = 500,
    minutes: MinutesOption = None,
    compile: CompileOption = False,
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
    log_to_terminal()
    with training_installed():
        from ..training import distillation, evaluation, recipe, run
        from ..training.task import spread
    with wrong_usage():
        given: dict[recipe.Kind, list[str] | None] = {
            "pairs": pairs,
            "solved": solved,
            "depth": depth,
            "photos": photos,
        }
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
            u=u,
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
        minutes=minutes,
        compile=compile,
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
    minutes: MinutesOption = None,
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
    log_to_terminal()
    with training_installed():
        from ..training import recipe, run, super_resolution
    with wrong_usage():
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
        minutes=minutes,
        resume=resume,
        overwrite=overwrite,
    )


def _train(task: Task, **options: Any) -> None:
    """Run the task in a run.Session of these options, and say in one line how it ended."""
    from ..training import run

    bar = progress_bar(task.recipe.steps)
    row = bar.add_task("", total=task.recipe.steps, name="")

    def progress(step: int) -> None:
        bar.start()  # not before: other processes than the first have nothing to show
        bar.update(row, completed=step)

    session = run.Session(report=complain, progress=progress, **options)
    try:
        run.train(task, session)
    except run.RunError as error:
        fail(str(error), code=2)
    except (ValueError, OSError) as error:
        fail(str(error).strip().splitlines()[-1], code=1)  # a process that prepares data tells its whole story
    except KeyboardInterrupt:
        fail(f"interrupted; go on from the last checkpoint with --resume: {session.folder}", code=130)
    finally:
        bar.stop()
    if not run.is_first_process():
        # A worker of gloo's that still holds a tensor may abort an interpreter that shuts down; Lightning would then kill
        # the first process over its drawings.
        os._exit(0)
