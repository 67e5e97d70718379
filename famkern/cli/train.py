"""`famkern train student` and `famkern train teacher`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from .options import DeviceOption, ThreadsOption
from .terminal import complain, end_interrupted, fail, log_to_terminal, progress_bar, training_installed, wrong_usage

if TYPE_CHECKING:
    from ..training.task import Task

train = typer.Typer(help="Train networks from photographs.", no_args_is_help=True, add_completion=False)

FOLDERS = "FOLDER[=WEIGHT][,indoor|outdoor|reside][,sky]"
RunOption = Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="The run's folder, created.")]


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function. It is called with its own options; with a dictionary of those of the recipe of that
    name, `given`, None where not given; and with one of those of the session, `session`."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        from ..training import recipe

        kind = {"student": recipe.StudentRecipe, "teacher": recipe.TeacherRecipe}[name]
        own, of_session = _parameters(function), _parameters(_session)
        of_recipe = [*_parameters(_crops), *_recipe_options(kind)]

        def command(**values: Any) -> None:
            log_to_terminal()
            mine, given, session = ({p.name: values[p.name] for p in part} for part in (own, of_recipe, of_session))
            function(
                given={name: value.value if isinstance(value, Enum) else value for name, value in given.items()},
                session=_session(**session),
                **mine,
            )

        everything = [*own, *of_recipe, *of_session]
        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in everything}
        return train.command(name)(command)

    return decorate


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those of a function that are options of the command line, by keyword alone."""
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("given", "session")
    ]


def _recipe_options(kind: Any) -> Iterator[inspect.Parameter]:
    """An option for each field of a recipe, and of the dataclasses in it, whose metadata say what it is."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = next((part for part in get_args(hints[field.name]) if is_dataclass(part)), hints[field.name])
        if not field.metadata:
            if is_dataclass(hint):
                yield from _recipe_options(hint)
            continue
        option = {name: value for name, value in field.metadata.items() if name != "text"}
        value_type = str if "text" in field.metadata else _value_type(field.name, hints[field.name])
        annotation = Annotated[value_type | None, typer.Option(**option)]  # type: ignore[valid-type]
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _value_type(name: str, hint: Any) -> Any:
    """A field's type as typer takes it: without None, and choices as an enumeration."""
    if get_origin(hint) is Literal:
        return Enum(name, {choice: choice for choice in get_args(hint)}, type=str)  # type: ignore[misc]
    kinds = [part for part in get_args(hint) if part is not NoneType]
    return kinds[0] if kinds else hint


def _crops(
    preset: Annotated[
        Enum("Preset", {name: name for name in ("default", "paper")}, type=str) | None,  # type: ignore[valid-type]
        typer.Option(help="The recipe that options not given are taken from. [default: default]"),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops in a step, over all devices.")] = None,
    crop: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the crops in pixels. With this option or --batch crops do not grow."),
    ] = None,
    phases: Annotated[
        list[str] | None,
        typer.Option(
            "--phase",
            metavar="SIZExBATCH@UNTIL",
            help="Crops that grow: 96x8@0.5 and 256x2@1 are 8 of 96 pixels up to half of the steps, then 2 of 256.",
        ),
    ] = None,
) -> None:
    """What a recipe's phases are given as, and the preset."""


def _session(
    val_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 1000,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so many minutes, with a checkpoint to --resume from.")
    ] = None,
    device: DeviceOption = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Number of devices; each has a process and its part of every batch.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data; 0: the training process does.")] = 0,
    threads: ThreadsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with RUN; options not given are those of its recipe.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in RUN.")] = False,
) -> dict[str, Any]:
    """What run.Session is told, beside the folder."""
    return {
        "device": device,
        "devices": devices,
        "workers": workers,
        "threads": threads,
        "validate_every": val_every,
        "checkpoint_every": checkpoint_every,
        "minutes": minutes,
        "resume": resume,
        "overwrite": overwrite,
    }


@_command("student")
def train_student(
    output: RunOption,
    given: dict[str, Any],
    session: dict[str, Any],
    pairs: Annotated[
        list[str] | None, typer.Option(metavar=FOLDERS, help="Folders of hazy/ and clear/, as in RESIDE.")
    ] = None,
    solved: Annotated[
        list[str] | None,
        typer.Option(metavar=FOLDERS, help="The same; depth is computed from both, and haze made anew."),
    ] = None,
    depth: Annotated[list[str] | None, typer.Option(metavar=FOLDERS, help="Folders of rgb/ and depth/.")] = None,
    photos: Annotated[
        list[str] | None, typer.Option(metavar=FOLDERS, help="Any photographs, with made-up depth.")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="A folder of hazy/ and clear/ to validate on.")] = None,
    val_pairs: Annotated[
        int | None, typer.Option(min=1, help="Validate on at most so many pairs, evenly chosen.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network with torch.compile, on a GPU.")
    ] = False,
) -> None:
    """Train a dehazing student, with or without a teacher.

    RUN will hold student.safetensors (the averaged weights, for --model), log.csv, curves.png, samples.png, and what
    --resume needs. Folders may be given many times; each is drawn from in proportion to its WEIGHT. indoor, outdoor and
    reside are kinds of haze to add; with sky the greatest depth of each file counts as sky, infinitely far away.
    """
    with training_installed():
        from ..training import distillation, evaluation, recipe, run
        from ..training.task import evenly
    with wrong_usage():
        texts: dict[recipe.Kind, list[str] | None] = {
            "pairs": pairs,
            "solved": solved,
            "depth": depth,
            "photos": photos,
        }
        folders = tuple(recipe.Folder.parse(kind, text) for kind, of in texts.items() for text in of or [])
        base = run.resumed(output, recipe.StudentRecipe) if session["resume"] else None
        chosen = recipe.student(given.pop("preset"), base, folders=folders or None, **given)
        found = evaluation.find_pairs(val) if val else []
        task = distillation.Distillation(chosen, evenly(found, val_pairs or len(found)))
    _train(task, folder=output, compile=compile, **session)


@_command("teacher")
def train_teacher(
    output: RunOption,
    given: dict[str, Any],
    session: dict[str, Any],
    photos: Annotated[list[str] | None, typer.Option(metavar="FOLDER", help="Sharp photographs.")] = None,
    val: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A folder of HR/ and LRx2/ to validate on, or of sharp pictures."),
    ] = None,
) -> None:
    """Train a teacher: a x2 super-resolution network, for `famkern train student --teacher RUN/teacher.safetensors`.

    RUN will hold teacher.safetensors (the averaged weights), log.csv, curves.png, samples.png, and what --resume needs.
    Folders may be given many times. To measure a teacher: `famkern evaluate FOLDER --model RUN/teacher.safetensors`.
    """
    with training_installed():
        from ..training import recipe, run, super_resolution
    with wrong_usage():
        folders = tuple(recipe.Folder("photos", folder) for folder in photos or [])
        base = run.resumed(output, recipe.TeacherRecipe) if session["resume"] else None
        chosen = recipe.teacher(given.pop("preset"), base, folders=folders or None, **given)
        pictures = [picture for folder in val or [] for picture in super_resolution.find_pictures(folder)]
        task = super_resolution.SuperResolution(chosen, pictures)
    _train(task, folder=output, **session)


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
        end_interrupted(f"interrupted; go on from the last checkpoint with --resume: {session.folder}")
    finally:
        bar.stop()
    if not run.is_first_process():
        # A worker of gloo's that still holds a tensor may abort an interpreter that shuts down; Lightning would then kill
        # the first process over its drawings.
        os._exit(0)
