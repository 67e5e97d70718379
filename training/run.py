"""One training run: the trainer, and a folder that any interruption leaves fit to be resumed.

    recipe.json             what the run does; resuming demands the same
    last.ckpt               everything needed to go on: weights, their average, optimiser, schedule, counters
    NAME.safetensors        the averaged weights, as famkern.models.load takes them
    log.csv, tensorboard/   a row every so many steps: means since the row before
    curves.png, samples.png at the end

A run that is killed and resumed ends with the same bits as one that is not, on the same CPU with the same number of
threads: data depend on the seed and the step alone, a checkpoint holds all other state, and each falls on a row of the
log, which is cut back to it.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from . import plots
from . import recipe as recipes
from .data import StepSampler
from .recipe import Loss, Recipe

R = TypeVar("R", bound=Recipe)
T = TypeVar("T")

CHARBONNIER_EPSILON = 1e-3
CHECKPOINT, RECIPE, LOG = "last.ckpt", "recipe.json", "log.csv"
CURVES, SAMPLES, EVENTS = "curves.png", "samples.png", "tensorboard/events.*"


class RunError(ValueError):
    """A folder that does not hold what resuming or starting a run needs."""


@dataclass(frozen=True)
class Session:
    """Where and how to run a recipe: nothing here is meant to change its result.

    folder            the run's
    device            "cpu", "cuda" or "cuda:N"; None: CUDA where present
    devices           how many; each has a process of its own and its part of every batch
    workers           processes that prepare data; 0: the training process itself does
    threads           of the CPU; None: PyTorch's setting. Another number changes rounding
    log_every, validate_every, checkpoint_every    in steps
    resume            go on with the run in the folder
    overwrite         replace it
    report            takes a line now and then, for people who watch
    progress          takes the number of steps done, after each
    """

    folder: Path
    device: str | None = None
    devices: int = 1
    workers: int = 0
    threads: int | None = None
    log_every: int = 50
    validate_every: int = 1000
    checkpoint_every: int = 500
    resume: bool = False
    overwrite: bool = False
    report: Callable[[str], None] = lambda line: None
    progress: Callable[[int], None] = lambda step: None

    def due(self, step: int, steps: int) -> tuple[bool, bool, bool]:
        """After `step` of `steps`: whether to log, to validate and to keep a checkpoint; both of these log too."""
        last = step == steps
        validate = last or step % self.validate_every == 0
        checkpoint = last or step % self.checkpoint_every == 0
        return validate or checkpoint or step % self.log_every == 0, validate, checkpoint


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

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(
            recipe.seed
        )  # of the initialisation; nothing else is random but the data, which have their own
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
    def validate(self, part: slice) -> list[dict[str, float]]:
        """The metrics of each picture of this part of those for validation; [] if there are none."""

    @abstractmethod
    def samples(self, count: int) -> list[tuple[Tensor, ...]]:
        """Rows of pictures (3, H, W) in [0, 1] that show what has been learnt."""


def train(task: Task, session: Session) -> None:
    """Run the task's recipe, from its start or from its last checkpoint.

    Raises:
        RunError: for a folder that holds another run, or none to resume, and for a device that is not there.
        ValueError: for data that cannot be read.
        KeyboardInterrupt: if interrupted; the last checkpoint is there.
    """
    recipe, folder = task.recipe, session.folder
    device = _device(session.device)
    if session.threads is not None and session.threads < 1:
        raise RunError(f"threads is a whole number from 1, not {session.threads}")
    if rank_zero_only.rank == 0:  # the other processes are started when all is in place
        prepare(task, session)
    if session.threads is not None:
        torch.set_num_threads(session.threads)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What makes results repeat would also fill every new tensor, a twentieth of the time; all of ours are written whole.
    torch.utils.deterministic.fill_uninitialized_memory = False
    cpu = device.type == "cpu"
    trainer = Trainer(
        accelerator="cpu" if cpu else "gpu",
        devices=session.devices if device.index is None else [device.index],
        strategy=_strategy(cpu) if session.devices > 1 else "auto",
        precision=recipe.precision,
        max_steps=recipe.steps,
        gradient_clip_val=recipe.optimiser.clip,
        deterministic=True if cpu else "warn",
        use_distributed_sampler=False,
        callbacks=[Averaging(), Journal(session)],
        plugins=[WholeFiles()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
    )
    loader = partial(_loader, task, trainer, session)
    task.train_dataloader = loader  # type: ignore[method-assign]
    checkpoint = folder / CHECKPOINT
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, FutureWarning):  # advice for loaders and modules unlike ours
                warnings.filterwarnings("ignore", category=category, module="lightning")
            trainer.fit(task, ckpt_path=str(checkpoint) if session.resume and checkpoint.is_file() else None)
    except SystemExit as error:
        if trainer.interrupted and error.code == 1:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    if trainer.is_global_zero:
        plots.curves(folder / LOG, folder / CURVES)
        plots.grid(task.samples(4), folder / SAMPLES)
        session.report(f"{recipe.steps} steps done: {folder / task.weights}")


def prepare(task: Task, session: Session) -> None:
    """Make the session's folder ready for a run, or see that the one in it is the task's.

    Raises:
        RunError: if it holds a run and neither resuming nor overwriting was asked for, or one of another recipe, or
            none to resume.
    """
    folder, recipe = session.folder, task.recipe
    if session.resume and session.overwrite:
        raise RunError("a run is either resumed or overwritten")
    if session.resume:
        different = recipes.differences(recipe, resumed(folder, type(recipe)))
        if different:
            raise RunError(f"{folder}: the run here has another recipe: {'; '.join(different)}")
        return
    if (folder / RECIPE).exists() and not session.overwrite:
        raise RunError(f"{folder}: holds a run; resume it, overwrite it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*(folder / name for name in (CHECKPOINT, LOG, task.weights, CURVES, SAMPLES)), *folder.glob(EVENTS)):
        path.unlink(missing_ok=True)
    replace(folder / RECIPE, lambda beside: recipes.write(beside, recipe))


def resumed(folder: Path, kind: type[R]) -> R:
    """The recipe of the run in this folder.

    Raises:
        RunError: if there is none.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise RunError(f"{folder}: no run to resume here")
    return recipes.read(path, kind)


class Averaging(Callback):
    """Moves the average after each step; the first of the callbacks, so that the others see it moved."""

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        """Average the weights that the step left."""
        assert isinstance(task, Task)
        task.average.update_parameters(task.trained)


class Journal(Callback):
    """Keeps the log, validates, exports and checkpoints, in this order.

    All between two steps, so that a checkpoint finds the log complete up to it, and no loop of Lightning's half done.
    Lightning's own loggers lose or double rows when a run is resumed.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.folder = session, session.folder
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        """Cut the log back to the checkpoint."""
        assert isinstance(task, Task)
        self.columns = ["step", "seconds", "lr", "loss", *task.parts, *task.metrics]
        self.began = time.monotonic()
        if not trainer.is_global_zero:
            return
        path = self.folder / LOG
        rows = []
        if trainer.global_step and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.global_step]
        self.began -= float(rows[-1]["seconds"]) if rows else 0.0

        def write(beside: Path) -> None:
            with beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)

        replace(path, write)
        self.board = SummaryWriter(self.folder / "tensorboard", purge_step=trainer.global_step + 1)
        self.session.report(f"from step {trainer.global_step} to {task.recipe.steps} on {task.device}, {task.how}")

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, outputs: Any, *_: Any) -> None:
        """Count the step in; write a row, validate and checkpoint where due."""
        assert isinstance(task, Task)
        step, steps = trainer.global_step, task.recipe.steps
        self.count += 1
        for name in ("loss", *task.parts):
            value = outputs[name].detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        if trainer.is_global_zero:
            self.session.progress(step)
        log, validate, checkpoint = self.session.due(step, steps)
        if not log:
            return
        row: dict[str, float] = {name: float(trainer.strategy.reduce(v)) / self.count for name, v in self.sums.items()}
        self.sums, self.count = {}, 0
        if not math.isfinite(row["loss"]):
            raise ValueError(f"the loss is {row['loss']} at step {step}: it diverged; begin again at a lower rate")
        if validate:
            row |= self._validate(trainer, task)
        if trainer.is_global_zero:
            row["lr"] = task.recipe.optimiser.rate(step - 1, steps)
            self._write(step, row)
            if validate or checkpoint:
                figures = ", ".join(f"{name} {row[name]:.4g}" for name in ("loss", *task.metrics) if name in row)
                self.session.report(f"step {step} of {steps}: {figures}")
        if checkpoint:
            if trainer.is_global_zero:
                export(task, self.folder / task.weights, step)
            trainer.save_checkpoint(self.folder / CHECKPOINT)

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        """Close the log."""
        if trainer.is_global_zero:
            self.board.close()

    def _validate(self, trainer: Trainer, task: Task) -> dict[str, float]:
        """The mean of each metric; each process does its part of the pictures."""
        figures = task.validate(slice(trainer.global_rank, None, trainer.world_size))
        count = trainer.strategy.reduce(torch.tensor(float(len(figures)), device=task.device), reduce_op="sum")
        totals = {
            name: trainer.strategy.reduce(
                torch.tensor(sum(f[name] for f in figures), dtype=torch.float64, device=task.device), reduce_op="sum"
            )
            for name in task.metrics
        }
        return {name: float(total / count) for name, total in totals.items()} if count else {}

    def _write(self, step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            self.board.add_scalar(name, value, step)
        row |= {"step": step, "seconds": round(time.monotonic() - self.began, 1)}
        with (self.folder / LOG).open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, wherever the temporary folder may be."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside `path`, then move."""
        replace(Path(path), lambda beside: torch.save(checkpoint, beside))


def restoration_loss(kind: Loss, output: Tensor, clear: Tensor) -> Tensor:
    """Mean difference of two pictures (B, 3, H, W): "l1", "mse", or "charbonnier", sqrt(difference^2 + 1e-6).

    The output comes unclamped: where a clamp cuts, nothing would pull the output back.
    """
    if kind == "mse":
        return F.mse_loss(output, clear)
    if kind == "l1":
        return F.l1_loss(output, clear)
    return torch.sqrt((output - clear).square() + CHARBONNIER_EPSILON**2).mean()


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of these, evenly spread."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def export(task: Task, path: Path, step: int) -> None:
    """Write the averaged weights, as famkern.models.load takes them."""
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None).contiguous()
        for name, tensor in task.averaged.state_dict().items()
    }
    # One entry: safetensors writes several in no particular order, and equal weights are to be equal files.
    content = to_safetensors(tensors, {"famkern": f"{task.name}, step {step} of {task.recipe.steps}"})
    replace(path, lambda beside: beside.write_bytes(content))


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `path` written whole or not at all: under another name beside it, on the disk, then moved."""
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


class _Loader(DataLoader[dict[str, Tensor]]):
    """A loader that may begin in the middle of the run but has the length of the whole, as Lightning counts.

    Having a state, though an empty one, tells Lightning that it goes on by itself where it should.
    """

    def __init__(self, steps: int, *args: Any, **kwargs: Any) -> None:
        self._steps = steps
        super().__init__(*args, **kwargs)

    def __len__(self) -> int:
        return self._steps

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def _loader(task: Task, trainer: Trainer, session: Session) -> _Loader:
    """The data of the steps that are left; called when the trainer knows its step and rank."""
    recipe = task.recipe
    sampler = StepSampler(
        recipe.phases, recipe.steps, trainer.global_step, rank=trainer.global_rank, world=trainer.world_size
    )
    workers, cuda = session.workers, task.device.type == "cuda"
    return _Loader(recipe.steps, task.dataset, batch_sampler=sampler, num_workers=workers, pin_memory=cuda)


def _strategy(cpu: bool) -> DDPStrategy:
    return DDPStrategy(process_group_backend="gloo" if cpu else "nccl", broadcast_buffers=False)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise RunError(f'device is "cpu", "cuda" or "cuda:N", not {name!r}') from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise RunError(f"device {name} was asked for, but PyTorch {torch.__version__} finds none here to train on")
    return device


def _move_average(decay: float, averages: list[Tensor], currents: list[Tensor], count: Tensor) -> None:
    """average += (1 - d) (current - average), with d rising to `decay` as the number of averaged steps grows."""
    n = float(count)
    torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + n) / (10 + n)))
