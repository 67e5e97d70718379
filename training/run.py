"""One training run: the trainer, and a folder that any interruption leaves fit to be resumed.

    recipe.json             what the run does; resuming demands the same
    last.ckpt               everything needed to go on: weights, their average, optimiser, schedule, counters
    before.ckpt             the checkpoint before that, for where the last one is damaged
    NAME.safetensors        the averaged weights, as famkern.models.load takes them
    log.csv, tensorboard/   a row every so many steps: means since the row before
    curves.png, samples.png at the end

A run that is killed and resumed ends with the same bits as one that is not, on the same CPU with the same number of
threads: data depend on the seed and the step alone, a checkpoint holds all other state, and each falls on a row of the
log, which is cut back to it.
"""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from famkern import images

from . import data, plots
from . import recipe as recipes
from .journal import BEFORE, CHECKPOINT, EVENTS, LOG, Averaging, Journal, Session, WholeFiles
from .recipe import Recipe
from .task import Task

__all__ = ["RunError", "Session", "is_first_process", "prepare", "resumed", "train"]

R = TypeVar("R", bound=Recipe)

RECIPE, CURVES, SAMPLES = "recipe.json", "curves.png", "samples.png"


class RunError(ValueError):
    """A folder that does not hold what resuming or starting a run needs."""


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
    present = _cores() if device.type == "cpu" else torch.cuda.device_count()
    if session.devices > present:
        what = "CPU cores" if device.type == "cpu" else "CUDA devices"
        raise RunError(
            f"devices is {session.devices}, but this machine has {present} {what}; each needs one of its own"
        )
    if is_first_process():  # the other processes are started when all is in place
        prepare(task, session)
    if session.threads is not None:
        torch.set_num_threads(session.threads)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What makes results repeat would also fill every new tensor, a twentieth of the time; all of ours are written whole.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    task.compiled = session.compile
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
    checkpoint = _whole_checkpoint(session) if session.resume else None
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, FutureWarning):  # advice for loaders and modules unlike ours
                warnings.filterwarnings("ignore", category=category, module="lightning")
            trainer.fit(task, ckpt_path=checkpoint and str(checkpoint))
    except SystemExit as error:
        if trainer.interrupted and error.code == 1:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    if trainer.is_global_zero and trainer.global_step == recipe.steps:
        plots.curves(folder / LOG, folder / CURVES)
        plots.grid(task.samples(4), folder / SAMPLES)
        session.report(f"{recipe.steps} steps done: {folder / task.weights}")


def _whole_checkpoint(session: Session) -> Path | None:
    """The last checkpoint that is not damaged; None where there never was one.

    Raises:
        RunError: if all that are there are damaged.
    """
    there = [path for path in (session.folder / CHECKPOINT, session.folder / BEFORE) if path.is_file()]
    for path in there:
        try:
            with zipfile.ZipFile(path) as archive:  # which torch.save writes, with a checksum for each tensor
                if archive.testzip() is None:
                    return path
        except (zipfile.BadZipFile, OSError, EOFError):
            pass
        if is_first_process() and path != there[-1]:
            session.report(f"{path}: this checkpoint is damaged; going on from the one before it")
    if there:
        raise RunError(f"{session.folder}: no checkpoint that is not damaged; begin again with --overwrite")
    return None


def is_first_process() -> bool:
    """Whether this is the process that was started, not one of those that it starts for its other devices."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def prepare(task: Task, session: Session) -> None:
    """Make the session's folder ready for a run, or see that the one in it is the task's; see that all data are whole.

    Raises:
        ValueError: if they are not.
        RunError: if it holds a run and neither resuming nor overwriting was asked for, or one of another recipe, or
            none to resume.
    """
    folder, recipe = session.folder, task.recipe
    if session.resume and session.overwrite:
        raise RunError("a run is either resumed or overwritten")
    try:
        images.check_writable(folder / CHECKPOINT)
    except images.ImageError as error:
        raise RunError(str(error)) from error
    if session.resume:
        different = recipes.differences(recipe, resumed(folder, type(recipe)))
        if different:
            raise RunError(f"{folder}: the run here has another recipe: {'; '.join(different)}")
    elif (folder / RECIPE).exists() and not session.overwrite:
        raise RunError(f"{folder}: holds a run; resume it, overwrite it, or choose another folder")
    data.check(task.to_check(), session.report)
    images.remove_dead(folder)
    if session.resume:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in (
        *(folder / name for name in (CHECKPOINT, BEFORE, LOG, task.weights, CURVES, SAMPLES)),
        *folder.glob(EVENTS),
    ):
        path.unlink(missing_ok=True)
    recipes.write(folder / RECIPE, recipe)


def resumed(folder: Path, kind: type[R]) -> R:
    """The recipe of the run in this folder.

    Raises:
        RunError: if there is none.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise RunError(f"{folder}: no run to resume here")
    return recipes.read(path, kind)


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
    sampler = data.StepSampler(
        recipe.phases, recipe.steps, trainer.global_step, rank=trainer.global_rank, world=trainer.world_size
    )
    workers, cuda = session.workers, task.device.type == "cuda"
    return _Loader(recipe.steps, task.dataset, batch_sampler=sampler, num_workers=workers, pin_memory=cuda)


def _strategy(cpu: bool) -> DDPStrategy:
    return DDPStrategy(process_group_backend="gloo" if cpu else "nccl", broadcast_buffers=False)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise RunError(f'device is "cpu", "cuda" or "cuda:N", not {name!r}') from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise RunError(f"device {name} was asked for, but PyTorch {torch.__version__} finds none here to train on")
    return device
