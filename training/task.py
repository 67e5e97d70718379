"""What every training consists of: a network, its average, its optimiser and schedule, its losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from .data import Checked
from .recipe import Loss, Recipe

T = TypeVar("T")

CHARBONNIER_EPSILON = 1e-3
PSNR_EPSILON = 1e-5  # 50 dB
CROP_BORDER = 6  # pixels
BORDER_WEIGHT = 8


class Task(LightningModule):
    """A network in training, its average, and what is particular to either.

    Subclasses have a `name`; the `metrics` that validate() returns; `parts` of the loss, if any, that training_step
    returns beside "loss"; and call average_of(network) once it is made.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    parts: tuple[str, ...] = ()
    average: AveragedModel
    how = "PyTorch's operators"  # what computes the network, for people
    compiled = False  # by torch.compile, see run.Session

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)  # of the initialisation; the data have randomness of their own, nothing else has
        self.recipe = recipe
        self.dataset = self.make_dataset()

    def average_of(self, network: nn.Module) -> None:
        """Keep the exponential moving average of this network, the one that is trained."""
        self._trained = [network]  # in a list, lest its parameters count twice
        self.average = AveragedModel(network, multi_avg_fn=partial(_move_average, self.recipe.average))
        self.average.requires_grad_(False)

    @property
    def weights(self) -> str:
        """Name of the file of the averaged weights."""
        return f"{self.name}.safetensors"

    def facts(self) -> dict[str, Any]:
        """What whoever loads the weights must know beside them, see models.loading."""
        return {}

    @property
    def trained(self) -> nn.Module:
        """The network with its own weights."""
        return self._trained[0]

    @property
    def averaged(self) -> nn.Module:
        """The network with averaged weights."""
        return self.average.module

    def configure_optimizers(self) -> Any:
        """Adam or AdamW with the recipe's schedule, which moves on after every step."""
        o, steps = self.recipe.optimiser, self.recipe.steps
        parameters = list(self.trained.parameters())
        fused = not self.recipe.precision.endswith("mixed")  # there Lightning cannot clip for a fused optimiser
        optimiser = torch.optim.AdamW(parameters, o.lr, o.betas, weight_decay=o.weight_decay, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: o.rate(step, steps) / o.lr)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @abstractmethod
    def make_dataset(self) -> Dataset[dict[str, Tensor]]:
        """What the recipe draws from: takes data.Draw."""

    @abstractmethod
    def to_check(self) -> Sequence[Checked]:
        """All files that are read for training and validation."""

    @abstractmethod
    def validate(self, part: slice) -> list[dict[str, float]]:
        """The metrics of each picture of this part of those for validation; [] if there are none."""

    @abstractmethod
    def samples(self, count: int) -> list[tuple[Tensor, ...]]:
        """Rows of pictures (3, H, W) in [0, 1] that show what has been learnt."""


def restoration_loss(kind: Loss, output: Tensor, clear: Tensor) -> Tensor:
    """Mean difference of two pictures (B, 3, H, W).

    "l1"; "gradient": l1, and l1 of the steps from each pixel to the next one across and down, which sees grain, seams and
    halos that hardly count in l1; "border": that, with steps near the crop's border, where zero padding shows, weighing
    BORDER_WEIGHT times; "mse"; "charbonnier": sqrt(difference^2 + 1e-6); "psnr": the mean over pictures of
    0.1 ln(MSE + 1e-5), that is of the PSNR up to its scale, with a bound on what a nearly perfect picture can add.

    The output comes unclamped: where a clamp cuts, nothing would pull the output back.
    """
    if kind == "mse":
        return F.mse_loss(output, clear)
    if kind == "l1":
        return F.l1_loss(output, clear)
    if kind in ("gradient", "border"):
        difference = output - clear
        total = difference.abs().sum()
        for dim in (2, 3):
            steps = difference.diff(dim=dim).abs()
            everywhere = steps.sum()
            total = total + everywhere
            if kind == "border":
                inside = steps[..., CROP_BORDER:-CROP_BORDER, CROP_BORDER:-CROP_BORDER].sum()
                total = total + (BORDER_WEIGHT - 1) * (everywhere - inside)
        return total / difference.numel()
    if kind == "psnr":
        return 0.1 * torch.log((output - clear).square().mean((1, 2, 3)) + PSNR_EPSILON).mean()
    return torch.sqrt((output - clear).square() + CHARBONNIER_EPSILON**2).mean()


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of these, evenly spread."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _move_average(decay: float, averages: list[Tensor], currents: list[Tensor], count: Tensor) -> None:
    """average += (1 - d) (current - average), with d rising to `decay` as the number of averaged steps grows."""
    n = float(count)
    torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + n) / (10 + n)))
