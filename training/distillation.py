"""Distillation of a student: a dehazing loss, and the Feature Affinity Module against a frozen teacher.

    L = loss(student(hazy), clear) + fam_weight x feature_affinity_loss(teacher(clear), student(hazy))

Source: arXiv 2207.11250; see ops/affinity.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from famkern import models
from famkern.dehazer import Dehazer
from famkern.models import Student, Teacher, UStudent
from famkern.models.student import normalise
from famkern.ops import route
from famkern.ops.affinity import feature_affinity_loss

from . import data, evaluation
from .fused import fused
from .recipe import Folder, StudentRecipe
from .super_resolution import pooled
from .task import Task, evenly, restoration_loss

STUDENT_POOL = 4  # half the teacher's, whose output is twice as large


def make_source(folder: Folder) -> data.Source:
    """What the recipe says of a folder, as the data room's own."""
    if folder.kind == "pairs":
        return data.Pairs(folder.path, folder.weight)
    options: dict[str, Any] = {} if folder.haze is None else {"haze": getattr(data.Haze, folder.haze)()}
    if folder.kind == "solved":
        return data.Solved(folder.path, folder.weight, **options)
    if folder.kind == "depth":
        if folder.haze == "reside":
            options["far"] = 1.0
        return data.Depths(folder.path, folder.weight, sky=folder.sky, **options)
    return data.Photos(folder.path, folder.weight, **options)


class Distillation(Task):
    """Trains `student`; its average is what is validated and exported.

    Args:
        recipe: what to do.
        pairs: for validation.

    Raises:
        ValueError, FileNotFoundError, WeightsError: for weights to start from or a teacher that are of another network.
    """

    name = "student"
    metrics = ("psnr",)
    recipe: StudentRecipe

    def __init__(self, recipe: StudentRecipe, pairs: Sequence[evaluation.Pair] = ()) -> None:
        super().__init__(recipe)
        self.pairs = pairs
        self.student = make_student(recipe)
        largest, window = max(phase.size for phase in recipe.phases), self.student.window
        if window is not None and window < largest:
            whose = f", which {recipe.init} has; --window 0 is for none" if recipe.window is None else ""
            raise ValueError(f"crops of {largest} pixels are larger than the window of {window}{whose}")
        self.teacher = None if recipe.teacher is None else load_teacher(recipe.teacher)
        self.parts = () if self.teacher is None else ("restoration", "affinity")
        self.average_of(self.student)
        self.network: Callable[[Tensor], Tensor] = self._plain

    def setup(self, stage: str) -> None:
        """Choose what computes the student, now that its device is known."""
        if self.teacher is not None:
            self.teacher.eval()
        on_cpu = self.device.type == "cpu" and self.recipe.precision == "32-true"
        widths = self.student.widths if isinstance(self.student, UStudent) else (self.student.channels,)
        if on_cpu and route.choose(self.device, widths, torch.float32) is route.COMPILED:
            if self.compiled:
                raise ValueError(
                    "torch.compile is for PyTorch's operators; here the student trains on compiled kernels"
                )
            self.network, self.how = fused(self.student).forward, "compiled kernels"
        else:
            self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.network, self.how = self._plain, "PyTorch's operators"
            if self.compiled:
                self.network, self.how = torch.compile(self._plain), "PyTorch's operators, compiled"

    def _plain(self, image: Tensor) -> Tensor:
        return self.student(image.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss and its parts for hazy and clear (B, 3, H, W) in [0, 1]."""
        hazy, clear = batch["hazy"], batch["clear"]
        output = self.network(normalise(hazy)).to(clear.dtype)
        restoration = restoration_loss(self.recipe.loss, output, clear)
        if self.teacher is None:
            return {"loss": restoration}
        with torch.no_grad():
            guide = pooled(self.teacher, clear)  # (B, 3, H // 4, W // 4)
        affinity = feature_affinity_loss(
            guide.to(clear.dtype),
            output,
            teacher_pool=1,
            student_pool=STUDENT_POOL,
            scale=self.recipe.fam_scale,
            process_group=torch.distributed.group.WORLD if torch.distributed.is_initialized() else None,
        )
        loss = restoration + self.recipe.fam_weight * affinity
        return {"loss": loss, "restoration": restoration.detach(), "affinity": affinity.detach()}

    def facts(self) -> dict[str, Any]:
        """The window, and the side that the weights are best at."""
        facts = {"window": self.student.window, "scale_side": self.student.scale_side}
        return {name: value for name, value in facts.items() if value is not None}

    def dehazer(self) -> Dehazer:
        """What users would get now: the averaged weights on this device."""
        return Dehazer(self.averaged, device=self.device, dtype=torch.float32)

    def validate(self, part: slice) -> list[dict[str, float]]:
        """PSNR in dB of whole pictures, by evaluation.RULES. Not SSIM, which takes longer than the network does."""
        dehazer, figures = self.dehazer(), []
        for pair in self.pairs[part]:
            hazy, clear = evaluation.read_pair(pair)
            figures.append({"psnr": float(peak_signal_noise_ratio(dehazer(hazy), clear, data_range=1.0))})
        return figures

    def samples(self, count: int) -> list[tuple[Tensor, ...]]:
        """Triplets hazy, output, clear, each (3, H, W) in [0, 1]: from the pairs for validation, else from the data."""
        dehazer = self.dehazer()
        if self.pairs:
            pictures = [evaluation.read_pair(pair) for pair in evenly(self.pairs, count)]
        else:
            size, step = self.recipe.phases[-1].size, self.recipe.steps  # a step that no training takes
            draws = [self.dataset[data.Draw(step, sample, size)] for sample in range(count)]
            pictures = [(draw["hazy"], draw["clear"]) for draw in draws]
        return [(hazy, dehazer(hazy), clear) for hazy, clear in pictures]

    def to_check(self) -> Sequence[data.Checked]:
        """What the recipe draws from, and the pairs."""
        assert isinstance(self.dataset, data.HazePairs)
        return [*self.dataset.to_check(), *map(data.PairScene, self.pairs)]

    def make_dataset(self) -> data.HazePairs:
        """What the recipe draws from."""
        return data.HazePairs([make_source(folder) for folder in self.recipe.folders], seed=self.recipe.seed)


def make_student(recipe: StudentRecipe) -> Student | UStudent:
    """The network that the recipe trains, with the weights that it starts from, their scale_side, and their window if the
    recipe has none.

    Raises:
        ValueError, FileNotFoundError, WeightsError: for weights to start from that are of another network.
    """
    student: Student | UStudent
    if recipe.u is None:
        student = Student(recipe.channels, recipe.groups, recipe.blocks)
    else:
        student = UStudent(recipe.u.widths, recipe.u.blocks, recipe.u.head)
    window = recipe.window
    if recipe.init is not None:
        network = models.load(recipe.init)
        start, wanted = network.state_dict(), student.state_dict()
        start.pop("window", None)  # set below
        if {name: t.shape for name, t in start.items()} != {name: t.shape for name, t in wanted.items()}:
            numbers = f"of {recipe.channels} channels, {recipe.groups} groups, {recipe.blocks} blocks"
            what = f"student {numbers}" if recipe.u is None else f"U-shaped student, {recipe.u}"
            raise ValueError(f"{recipe.init}: not weights of a {what}")
        student.load_state_dict(start)
        assert isinstance(network, (Student, UStudent))
        student.scale_side = network.scale_side
        window = network.window if window is None else window
    student.window = window or None
    return student


def load_teacher(name_or_path: str) -> Teacher:
    """A frozen teacher.

    Raises:
        ValueError: for a network of another kind.
        FileNotFoundError, WeightsError: as models.load.
    """
    teacher = models.load(name_or_path)
    if not isinstance(teacher, Teacher):
        raise ValueError(f"{name_or_path}: a teacher expected, not a {type(teacher).__name__.lower()}")
    return teacher.requires_grad_(False)
