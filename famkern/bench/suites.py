"""What else famkern does, each beside what would do the same: the feature affinity loss, training, files, films.

A suite makes its inputs, compares the results of all that takes part, and gives functions to be timed in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from .. import batch, images, models, video
from ..dehazer import Dehazer
from ..engine import available_memory
from ..export import Pipeline
from ..ops.affinity import feature_affinity_loss
from .engines import ENGINES, Missing
from .results import FAMKERN, WrongResultError

MAPS = (460, 620)  # height and width of the maps of features: the paper's example of what N x N matrices cost
PAPER_BYTES = 8 * 2**30  # that its formulation takes there, forward and backward
GRADIENT_ERROR = 1e-4  # relative, of a float32 gradient
PAPER_ERROR = 0.2  # the same of the paper's formulation, whose N x N differences leave little of 24 bits
BATCH, SIDE = 2, 240  # of a step of training
FILES, FRAMES = 6, 24
HD = (1080, 1920)
PIXEL_ERROR = 3.0  # of 255, mean over the samples of a JPEG: encoders differ in how they store colours


@dataclass
class Suite:
    """Functions that do the same work.

    title       what the work is
    unit        what a figure is of
    runs        each does the work `units` times over
    left_out    what does not take part, and why
    """

    title: str
    unit: str
    runs: dict[str, Callable[[], object]] = field(default_factory=dict)
    units: int = 1
    left_out: dict[str, str] = field(default_factory=dict)


def identity(teacher: Tensor, student: Tensor) -> Tensor:
    """The feature affinity loss without N x N matrices, as one would write it in PyTorch."""
    T, S = F.avg_pool2d(teacher, 8).flatten(2), F.avg_pool2d(student, 4).flatten(2)
    D, E = S - T, S + T
    DD, EE, ED = ((a @ b.mT).double() for a, b in ((D, D), (E, E), (E, D)))
    square = ((DD * EE).sum() + (ED * ED.mT).sum()) / 2
    return square.clamp_min(0).sqrt().to(student.dtype) / S.shape[2] ** 2


def paper(teacher: Tensor, student: Tensor) -> Tensor:
    """The feature affinity loss as the paper writes it, with two N x N matrices."""
    T, S = F.avg_pool2d(teacher, 8).flatten(2), F.avg_pool2d(student, 4).flatten(2)
    return torch.linalg.vector_norm(S.mT @ S - T.mT @ T) / S.shape[2] ** 2


def maps(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The teacher's, (1, 3, 2 height, 2 width), and the student's, (1, 3, height, width), which asks for a gradient."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.rand(1, 3, 2 * height, 2 * width, generator=generator)
    return teacher, torch.rand(1, 3, height, width, generator=generator).requires_grad_()


def gradient(loss: Callable[[Tensor, Tensor], Tensor], teacher: Tensor, student: Tensor) -> Tensor:
    """Forward and backward."""
    student.grad = None
    loss(teacher, student).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    return student.grad


@contextmanager
def affinity(threads: int) -> Iterator[Suite]:
    """The feature affinity loss of maps of 3 channels, forward and backward."""
    height, width = MAPS
    suite = Suite(f"Feature affinity loss of maps of {width} x {height}, forward and backward", "step")
    teacher, student = maps(height, width)
    torch.compiler.reset()
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        FAMKERN: feature_affinity_loss,
        "the identity in PyTorch": identity,
        "the identity, torch.compile": torch.compile(identity),
    }
    formulation = {"paper's formulation": paper, "paper's formulation, torch.compile": torch.compile(paper)}
    if available_memory() < PAPER_BYTES:
        suite.left_out |= dict.fromkeys(formulation, f"needs {PAPER_BYTES / 2**30:.0f} GiB")
    else:
        losses |= formulation
    exact = gradient(identity, teacher.double(), student.detach().double().requires_grad_())
    for label, loss in losses.items():
        _check(label, gradient(loss, teacher, student), exact, PAPER_ERROR if label in formulation else GRADIENT_ERROR)
        suite.runs[label] = partial(gradient, loss, teacher, student)
    yield suite


class Training:
    """A student with its optimiser, always on the same batch; the teacher's output is given.

    Args:
        network: takes (B, 3, H, W), and is trained.
        loss: feature affinity of teacher and student; None for none.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.network, self.loss = network, loss
        self.hazy = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
        self.clear = torch.rand(BATCH, 3, SIDE, SIDE, generator=generator)
        self.guide = torch.rand(BATCH, 3, 2 * SIDE, 2 * SIDE, generator=generator)
        self.optimiser = torch.optim.AdamW(network.parameters(), fused=True)

    def gradients(self) -> Tensor:
        """All gradients of the loss as one vector."""
        self.optimiser.zero_grad()
        output = self.network(self.hazy)
        loss = F.mse_loss(output, self.clear)
        if self.loss is not None:
            loss = loss + 0.25 * self.loss(self.guide, output)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in self.network.parameters() if p.grad is not None])

    def step(self) -> None:
        """Gradients, and the optimiser's step."""
        self.gradients()
        self.optimiser.step()


def trainings() -> dict[str, Callable[[], Training]]:
    """The student on famkern's operators and on PyTorch's, with the feature affinity loss fused, as in the paper, or not at
    all; each is made when it is called."""
    from ..training.fused import FusedStudent

    def student() -> models.Student:
        torch.manual_seed(0)
        return models.Student()

    def channels_last() -> Training:
        network = student().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        made = Training(network, feature_affinity_loss)
        made.hazy = made.hazy.contiguous(memory_format=torch.channels_last)
        return made

    return {
        FAMKERN: lambda: Training(FusedStudent(student()), feature_affinity_loss),
        f"{FAMKERN}, no affinity": lambda: Training(FusedStudent(student()), None),
        f"{FAMKERN}, paper's affinity": lambda: Training(FusedStudent(student()), paper),
        "PyTorch, channels_last, famkern's affinity": channels_last,
        "PyTorch, paper's affinity": lambda: Training(student(), paper),
    }


@contextmanager
def training(threads: int) -> Iterator[Suite]:
    """A step of distillation of the student."""
    suite = Suite(f"A step of training of student, {BATCH} x {SIDE} x {SIDE}", "step")
    candidates = {label: make() for label, make in trainings().items()}
    exact = candidates["PyTorch, paper's affinity"].gradients().double()
    for label, candidate in candidates.items():
        if candidate.loss is not None:
            _check(label, candidate.gradients(), exact)
        suite.runs[label] = candidate.step
    yield suite


@contextmanager
def files(threads: int) -> Iterator[Suite]:
    """A folder of JPEGs, read, dehazed and written."""
    height, width = HD
    suite = Suite(f"A folder of JPEGs of {width} x {height}, student", "file", units=FILES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hazy = [_scene(seed) for seed in range(FILES)]
        (folder / "in").mkdir()
        for number, pixels in enumerate(hazy):
            images.write(folder / f"in/{number}.jpg", images.Picture(pixels, format="JPEG"))

        def through(label: str, scale: int) -> None:
            dehazer = Dehazer("student", device="cpu", threads=threads, scale=scale)
            options = batch.Options(overwrite=True)
            jobs = batch.plan_jobs([folder / "in"], folder / label, options=options)

            def run() -> None:
                for outcome in batch.dehaze_files(jobs, dehazer, options):
                    if outcome.problem:
                        raise images.ImageError(outcome.problem)

            suite.runs[label] = run

        through(FAMKERN, 1)
        alone = Dehazer("student", device="cpu", threads=threads)
        suite.runs[f"{FAMKERN}, neither read nor written"] = lambda: [alone(pixels) for pixels in hazy]
        through(f"{FAMKERN}, scale 3", 3)
        through(f"{FAMKERN}, scale 6", 6)
        try:
            engine = ENGINES["OpenVINO"](Pipeline(models.load("student")).eval(), HD, threads)
        except Missing as missing:
            suite.left_out["Pillow and OpenVINO"] = str(missing)
        else:
            suite.runs["Pillow and OpenVINO"] = lambda: _loop(engine, folder / "in", folder / "loop")
            for label in (FAMKERN, "Pillow and OpenVINO"):
                suite.runs[label]()
            for theirs in (folder / "loop").iterdir():
                error = float(np.abs(_decoded(folder / FAMKERN / theirs.name) - _decoded(theirs)).mean())
                if not error < PIXEL_ERROR:
                    raise WrongResultError(f"Pillow and OpenVINO: {error:.1f} of 255 from {FAMKERN}, so not timed")
        yield suite


def _loop(engine: Callable[[Tensor], Tensor], source: Path, target: Path) -> None:
    """What one would write oneself, file after file."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        clear = (engine(pixels)[0].permute(1, 2, 0) * 255).round().byte()
        Image.fromarray(clear.numpy()).save(target / path.name, quality=95)


def _decoded(path: Path) -> Any:
    return images.read(path).pixels.astype(np.float32)


@contextmanager
def films(threads: int) -> Iterator[Suite]:
    """A film, decoded, dehazed and encoded."""
    height, width = HD
    suite = Suite(f"A film of {width} x {height} in H.264, scale 3", "frame", units=FRAMES)
    if not video.is_installed():
        suite.left_out[FAMKERN] = video.INSTALL
        yield suite
        return
    import av

    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "film.mp4")
        scene = _scene(0)
        frames = [np.roll(scene, 8 * index, axis=1) for index in range(FRAMES)]
        with av.open(str(source), "w") as out:
            stream = out.add_stream("libx264", rate=24, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for pixels in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            out.mux(stream.encode(None))
        for model in ("student", "u-indoor"):
            dehazer = Dehazer(model, device="cpu", threads=threads, scale=3)
            suite.runs[f"{FAMKERN}, {model}"] = partial(video.dehaze_film, source, source.with_stem("clear"), dehazer)
            suite.runs[f"{FAMKERN}, {model}, neither decoded nor encoded"] = partial(_frames, frames, dehazer)
        yield suite


def _frames(frames: list[Any], dehazer: Dehazer) -> None:
    for _ in video.dehaze_frames(frames, dehazer):
        pass


def _scene(seed: int) -> Any:
    """(*HD, 3) uint8: smooth, with a little noise, so that it is as hard to encode as a photograph."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, *(side // 32 + 2 for side in HD), generator=generator)
    coarse = F.interpolate(coarse, HD, mode="bicubic", align_corners=False)
    noise = 0.02 * torch.randn(1, 1, *HD, generator=generator)
    return ((0.4 + 0.5 * coarse + noise).clamp(0, 1) * 255).byte()[0].permute(1, 2, 0).contiguous().numpy()


def _check(label: str, found: Tensor, exact: Tensor, allowed: float = GRADIENT_ERROR) -> None:
    error = float((found.double() - exact).norm() / exact.norm())
    if not error < allowed:
        raise WrongResultError(f"{label}: its gradient is wrong by {error:.1e}, and so not timed")


SUITES: dict[str, Callable[[int], AbstractContextManager[Suite]]] = {
    "affinity": affinity,
    "training": training,
    "files": files,
    "films": films,
}
