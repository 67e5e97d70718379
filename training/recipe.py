"""What a training does, as data: recipes, their presets, and the file that keeps a recipe beside its run.

Only what decides the weights is in a recipe; devices, folders and how often to look are not (see run.Session).
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from famkern import images

from .data import Phase, StepSampler, find_pairs

R = TypeVar("R")

Loss = Literal["l1", "gradient", "border", "charbonnier", "mse", "psnr"]
Precision = Literal["32-true", "64-true", "16-mixed", "bf16-mixed"]
Kind = Literal["pairs", "solved", "depth", "photos"]


def option(help: str, **more: Any) -> dict[str, Any]:
    """Metadata of a field that `famkern train` has an option for.

    Args:
        help: what the option says of itself.
        more: further arguments of typer.Option; and `text`, for what is given as a text that `student` parses.
    """
    return {"help": help, **more}


@dataclass(frozen=True)
class Folder:
    """Pictures to draw from.

    kind    "pairs", as they are; "solved", pairs whose depth is solved and hazed anew; "depth", pictures with depth;
            "photos", photographs, with made-up depth where there must be haze
    weight  how often it is drawn from, relative to the others
    haze    "indoor", "outdoor" or "reside" (as RESIDE renders: depth relative to each picture's greatest); None for what is
            usual of its kind
    sky     the greatest depth in each file stands for infinity
    """

    kind: Kind
    path: str
    weight: float = 1.0
    haze: Literal["indoor", "outdoor", "reside"] | None = None
    sky: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"{self.path}={self.weight}: a weight above 0 expected")

    @classmethod
    def parse(cls, kind: Kind, text: str) -> Folder:
        """From PATH[=WEIGHT][,indoor|,outdoor|,reside][,sky]."""
        path, haze, sky, weight = text, None, False, 1.0
        while (parts := path.rpartition(","))[1] and parts[2] in ("indoor", "outdoor", "reside", "sky"):
            path = parts[0]
            if parts[2] == "sky":
                sky = True
            else:
                haze = parts[2]
        if match := re.fullmatch(r"(.+)=(\d+\.?\d*|\.\d+)", path):
            path, weight = match[1], float(match[2])
        return cls(kind, path, weight, haze, sky)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Optimiser:
    """Adam or AdamW, its learning rate over the run, and the bound on the gradient's norm.

    warmup        steps over which the rate rises linearly to lr
    final         fraction of lr that the cosine falls to at the last step; 1: constant
    weight_decay  decoupled (AdamW); 0: plain Adam
    clip          the norm of the whole gradient is cut to this
    """

    lr: float = field(default=2e-3, metadata=option("Highest learning rate, after the warm-up."))
    warmup: int = 200
    final: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip: float = 0.5

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip > 0 and self.warmup >= 0 and 0 <= self.final <= 1 and self.weight_decay >= 0):
            raise ValueError(
                f"{self}: lr and clip above 0, warmup and weight_decay of at least 0, final in [0, 1] expected"
            )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of `steps`."""
        cosine = (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1)) * (self.final + (1 - self.final) * cosine)


@dataclass(frozen=True)
class Recipe:
    """What the training of any network is told; the fields say it themselves.

    folders    what to draw from
    phases     crops and batches over the run, see data.Phase
    """

    folders: tuple[Folder, ...]
    steps: int = field(metadata=option("Steps of the optimiser in the whole run; the schedules depend on it.", min=1))
    phases: tuple[Phase, ...]
    loss: Loss = field(default="l1", metadata=option("The loss between the output and the clear picture."))
    optimiser: Optimiser = Optimiser()
    average: float = field(
        default=0.999,
        metadata=option(
            "Decay of the moving average of the weights, below 1. It rises to this; 0: no average.", min=0.0
        ),
    )
    seed: int = field(default=0, metadata=option("Decides the initial weights and everything that is drawn.", min=0))
    precision: Precision = field(
        default="32-true", metadata=option("Precision of the arithmetic, as Lightning names it.")
    )

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps; at least 1 expected")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; 0 to below 1 expected")
        StepSampler(self.phases, self.steps)  # has its own demands
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; 0 or more expected")


@dataclass(frozen=True)
class UShape:
    """The numbers of a U-shaped student, see models.UStudent."""

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: tuple[int, ...] = (1, 2, 4, 2, 1)
    head: Literal["gain", "plain"] = "gain"

    @classmethod
    def parse(cls, text: str) -> UShape:
        """From WIDTHS:BLOCKS[:plain], such as 16,32,64:1,2,4,2,1.

        Raises:
            ValueError: if it is nothing like that; models.UStudent has further demands.
        """
        match = re.fullmatch(r"(\d+(?:,\d+)+):(\d+(?:,\d+)+)(:plain)?", text)
        if not match:
            raise ValueError(f"shape {text!r}: WIDTHS:BLOCKS[:plain] expected, such as 16,32,64:1,2,4,2,1")
        widths, blocks = (tuple(map(int, numbers.split(","))) for numbers in match.group(1, 2))
        return cls(widths, blocks, "plain" if match[3] else "gain")


@dataclass(frozen=True)
class StudentRecipe(Recipe):
    """Distillation of a student: L = loss(output, clear) + fam_weight x feature affinity loss."""

    channels: int = field(default=16, metadata=option("Channels of the student, a multiple of 16."))
    groups: int = field(default=3, metadata=option("Groups of the student."))
    blocks: int = field(default=6, metadata=option("Blocks in each of its groups."))
    u: UShape | None = field(
        default=None,
        metadata=option(
            "A U-shaped student instead, such as 16,32,64:1,2,4,2,1; see models.UStudent.",
            metavar="WIDTHS:BLOCKS[:plain]",
            text=True,
        ),
    )
    init: str | None = field(
        default=None, metadata=option("Weights to start from: a name or a file. Default: PyTorch's initialisation.")
    )
    window: int | None = field(
        default=None,
        metadata=option(
            "Side of the windows that channel attention sees outside training; training sees whole crops, which are not "
            "larger. 0: none. Default: that of --init, else none.",
            min=0,
        ),
    )
    teacher: str | None = field(
        default=None, metadata=option('The teacher, a name or a file; "none": no feature affinity.')
    )
    fam_weight: float = field(default=0.25, metadata=option("Weight of the feature affinity in the loss.", min=0.0))
    fam_scale: Literal["paper", "rms"] = field(
        default="paper", metadata=option("Scale of the feature affinity, see famkern.feature_affinity_loss.")
    )


@dataclass(frozen=True)
class TeacherRecipe(Recipe):
    """Super-resolution x2 of sharp photographs, each colour channel by a network of its own.

    start  "bicubic": the networks begin as bicubic enlargement; "random": by PyTorch's initialisation
    """

    start: Literal["bicubic", "random"] = "bicubic"


# Small crops, most of them of reduced pictures: as varied as the means of whole ones, on which every channel attention
# depends, and far quicker than large crops, which gained nothing. The loss is what is reported in the end.
STUDENT = StudentRecipe(folders=(), steps=50_000, phases=(Phase(1.0, 96, 4),), loss="psnr")
# arXiv 2207.11250, section 4; it states epochs, so the steps depend on the pairs. Its crops it does not state: FFA-Net's.
PAPER_EPOCHS = 200
STUDENT_PAPER = StudentRecipe(
    folders=(),
    steps=1,
    phases=(Phase(1.0, 240, 2),),
    loss="mse",
    optimiser=Optimiser(lr=1e-4, warmup=0, final=1.0, betas=(0.9, 0.999), weight_decay=0.0, clip=0.1),
    average=0.0,
    teacher="teacher",
)


PRESETS = {"default": STUDENT, "paper": STUDENT_PAPER}
TEACHER = TeacherRecipe(
    folders=(), steps=30_000, phases=(Phase(1.0, 96, 16),), optimiser=Optimiser(lr=1e-3, weight_decay=0.0)
)
# The paper states the loss alone.
TEACHER_PAPER = replace(TEACHER, loss="mse", average=0.0, start="random")
TEACHER_PRESETS = {"default": TEACHER, "paper": TEACHER_PAPER}


def student(preset: str | None, base: StudentRecipe | None = None, **given: Any) -> StudentRecipe:
    """A student's recipe from a preset's name, or from `base`, and what is given beyond it.

    Args:
        preset: one of PRESETS; None: `base`, or "default" if there is none.
        given: fields of the recipe, None where not given; besides `lr`; `crop` and `batch`, for one phase; `phases` as
            texts SIZExBATCH@UNTIL; `u` as a text WIDTHS:BLOCKS; teacher "none".

    Raises:
        ValueError: for values that are not accepted, and if nothing says what to draw from.
    """
    base = base if base is not None and preset is None else PRESETS[preset or "default"]
    recipe = _changed(base, given)
    if not recipe.folders:
        raise ValueError("nothing to train on; give folders of pairs, solved, depth or photos")
    if preset == "paper" and given.get("steps") is None:
        if any(folder.kind != "pairs" for folder in recipe.folders):
            raise ValueError(f"the paper's {PAPER_EPOCHS} epochs are of pairs alone; give the number of steps")
        pairs = sum(len(find_pairs(folder.path)) for folder in recipe.folders)
        recipe = replace(recipe, steps=PAPER_EPOCHS * math.ceil(pairs / recipe.phases[0].batch))
    return recipe


def teacher(preset: str | None, base: TeacherRecipe | None = None, **given: Any) -> TeacherRecipe:
    """A teacher's recipe; see `student`.

    Raises:
        ValueError: likewise.
    """
    base = base if base is not None and preset is None else TEACHER_PRESETS[preset or "default"]
    recipe = _changed(base, given)
    if not recipe.folders:
        raise ValueError("nothing to train on; give folders of photos")
    return recipe


def _changed(base: R, given: dict[str, Any]) -> R:
    """`base` with what is given."""
    changes = {name: value for name, value in given.items() if value is not None}
    first: Phase = base.phases[0]  # type: ignore[attr-defined]
    if "lr" in changes:
        changes["optimiser"] = replace(base.optimiser, lr=changes.pop("lr"))  # type: ignore[attr-defined]
    if texts := changes.pop("phases", None):
        changes["phases"] = tuple(map(_parse_phase, texts))
    size, batch = changes.pop("crop", None), changes.pop("batch", None)
    if size or batch:
        if texts:
            raise ValueError("either phases, or crop and batch")
        changes["phases"] = (Phase(1.0, size or first.size, batch or first.batch),)
    if "u" in changes:
        changes["u"] = UShape.parse(changes["u"])
    if changes.get("teacher") == "none":
        changes["teacher"] = None
    return replace(base, **changes)  # type: ignore[type-var]


def _parse_phase(text: str) -> Phase:
    match = re.fullmatch(r"(\d+)x(\d+)@(\d*\.?\d+)", text)
    if not match:
        raise ValueError(f"phase {text!r}: SIZExBATCH@UNTIL expected, such as 96x8@0.5")
    return Phase(float(match[3]), int(match[1]), int(match[2]))


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Where two recipes differ: "optimiser.lr is 0.001, not 0.002", the value of `ours` first."""

    def walk(name: str, a: Any, b: Any) -> Iterator[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in a | b:
                yield from walk(f"{name}.{key}" if name else key, a.get(key), b.get(key))
        elif a != b:
            yield f"{name} is {json.dumps(a)}, not {json.dumps(b)}"

    return list(walk("", asdict(ours), asdict(theirs)))


def write(path: Path, recipe: Recipe) -> None:
    """Keep a recipe as JSON."""
    with images.replacing(path, lasting=True) as file:
        file.write((json.dumps(asdict(recipe), indent=2) + "\n").encode())


def read(path: Path, kind: type[R]) -> R:
    """The recipe of this kind in a JSON file.

    Raises:
        ValueError: if there is none, naming what is wrong.
    """
    try:
        return _build(kind, json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a {kind.__name__} ({error})") from error


def _build(kind: Any, value: Any) -> Any:
    """A value of type `kind` from what JSON made of it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} where names and values belong")
        unknown = set(value) - {field.name for field in fields(kind)}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        hints = get_type_hints(kind)
        return kind(**{name: _build(hints[name], part) for name, part in value.items()})  # type: ignore[operator]
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[1] is ... else arguments
        return tuple(_build(part_kind, part) for part_kind, part in zip(kinds, value, strict=True))
    if origin in (Union, types.UnionType):
        return None if value is None else _build(next(a for a in arguments if a is not type(None)), value)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    return kind(value)
