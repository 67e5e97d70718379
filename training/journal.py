"""What a run keeps in its folder while it goes: log, weights, checkpoints; all written so that a kill harms nothing."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from famkern import images

from .task import Task

CHECKPOINT, BEFORE, LOG, EVENTS = "last.ckpt", "before.ckpt", "log.csv", "tensorboard/events.*"


@dataclass(frozen=True)
class Session:
    """Where and how to run a recipe: nothing here is meant to change its result.

    folder            the run's
    device            "cpu", "cuda" or "cuda:N"; None: CUDA where present
    devices           how many; each has a process of its own and its part of every batch
    workers           processes that prepare data; 0: the training process itself does
    threads           of the CPU; None: PyTorch's setting. Another number changes rounding
    log_every, validate_every, checkpoint_every    in steps
    minutes           stop after so many, with a checkpoint to go on from; None: when all is done
    compile           compile the network with torch.compile, where its operators are PyTorch's: on a GPU
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
    minutes: float | None = None
    compile: bool = False
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
        self.deadline = math.inf if self.session.minutes is None else time.monotonic() + 60 * self.session.minutes
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

        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        with images.replacing(path, lasting=True) as file:
            file.write(text.getvalue().encode())
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
        late = trainer.strategy.broadcast(time.monotonic() > self.deadline) if self.session.minutes else False
        if late:  # for all processes alike
            log = checkpoint = trainer.should_stop = True
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
        if late and step < steps and trainer.is_global_zero:
            self.session.report(f"stopped after {self.session.minutes:g} minutes at step {step}; --resume goes on")

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
    """Checkpoints that are there whole or not at all, wherever the temporary folder may be, and the one before each."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside `path`, then move; what was there becomes the one before."""
        path = Path(path)
        with images.replacing(path, lasting=True) as file:
            torch.save(checkpoint, file)
            file.flush()  # for which there may be no room
            if path.exists():
                path.replace(path.with_name(BEFORE))


def export(task: Task, path: Path, step: int) -> None:
    """Write the averaged weights, as famkern.models.load takes them."""
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None).contiguous()
        for name, tensor in task.averaged.state_dict().items()
        if name != "window"  # among the facts
    }
    # One entry: safetensors writes several in no particular order, and equal weights are to be equal files.
    facts = {"network": task.name, "step": step, "steps": task.recipe.steps, **task.facts()}
    content = to_safetensors(tensors, {"famkern": json.dumps(facts)})
    with images.replacing(path, lasting=True) as file:
        file.write(content)
