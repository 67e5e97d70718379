"""Whole networks of both families and the feature affinity on a GPU, beside plain PyTorch; writes docs/benchmarks/<GPU>.md.

    python benchmarks/bench_gpu.py                    everything
    python benchmarks/bench_gpu.py --without-compile  without torch.compile, whose search takes minutes
    pytest -m gpu benchmarks/bench_gpu.py             only whether the results are right

Nothing is timed unless it is right: at every size, the error of our frames is at most twice that of PyTorch's in float16.
Device events, medians; the competitors take turns; several pictures in rotation, together larger than any cache.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import platform
import shutil
import subprocess
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import bench_affinity
import gpu_report
import pytest
import torch
from gpu_report import COMPILED, EAGER, FAMILIES, FOURK, IDENTITY, OURS, Report, StageTime, Times
from torch import Tensor, nn

import famkern
from famkern import engine
from famkern.engine import traffic
from famkern.models.student import IMAGE_MEAN, IMAGE_STD, fold_norm, normalise
from famkern.ops import route
from famkern.ops import stage as ops

SIZES = (FOURK, (1080, 1920))
ODD = (131, 257)
PICTURES = 4
ROUNDS = 40
COPIED = 1 << 30  # bytes
AFFINITY_ERROR = 1e-5
Run = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """Picture in, picture out, as one would run it on PyTorch."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.student = famkern.models.load(network).eval()
        self.student.window = None  # figures are of one mean for all, whatever the weights say

    def forward(self, image: Tensor) -> Tensor:
        return self.student(normalise(image)).clamp(0, 1)


# ---- who is compared -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def kernels(name: str) -> Iterator[None]:
    """Run on CUDA C++ or on Triton alone."""
    reason = route.library.why_not_cuda()
    if name == OURS[0] and reason is not None:
        raise RuntimeError(reason)
    with (
        mock.patch.dict("os.environ", FAMKERN_GPU="1"),
        mock.patch.object(route.library, "why_not_cuda", return_value=None if name == OURS[0] else "Triton alone"),
    ):
        yield


def ours(name: str, network: str) -> Run:
    dehazer = famkern.Dehazer(model=network, device="cuda", dtype="float16", window=0, scale=1)

    def run(image: Tensor) -> Tensor:
        with kernels(name):
            return dehazer(image)

    with kernels(name):
        if route.choose(torch.device("cuda", 0), 16, torch.float32) is route.REFERENCE:
            raise RuntimeError("the reference would run")
    return run


def eager(network: str) -> Run:
    return Network(network).cuda().half().to(memory_format=torch.channels_last)


def compiled(network: str) -> Run:
    # Its own frames live in its graph's memory, until the next run.
    return torch.compile(Network(network).cuda().half().to(memory_format=torch.channels_last), mode="max-autotune")


COMPETITORS: dict[str, Callable[[str], Run]] = {
    **{name: functools.partial(ours, name) for name in OURS},
    EAGER: eager,
    COMPILED: compiled,
}


def pictures(size: tuple[int, int]) -> list[Tensor]:
    """Random ones, (1, 3, H, W) float16 in channels_last."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(1, 3, *size, generator=generator) for _ in range(PICTURES))
    return [image.cuda().half().contiguous(memory_format=torch.channels_last) for image in images]


# ---- right, before it is timed ---------------------------------------------------------------------------------------


def exact(image: Tensor, network: str) -> Tensor:
    """The frame in float32, without TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        return Network(network).cuda()(image.float())


def verify(runs: dict[str, Run], size: tuple[int, int], network: str) -> None:
    """Refuse to go on where our frames are wrong.

    Raises:
        AssertionError: naming who is wrong, by how much.
    """
    image = pictures(size)[0]
    wanted = exact(image, network)
    errors = {name: float((run(image).float() - wanted).square().mean().sqrt()) for name, run in runs.items()}
    for name, error in errors.items():
        assert error <= 2 * errors[EAGER], f"not timed, because wrong: {network} on {name} at {size}, errors {errors}"
        if name in OURS:
            assert torch.equal(runs[name](image), runs[name](image)), (
                f"{network} on {name} at {size}: not the same bits again"
            )


def verify_affinity(H: int, W: int) -> None:
    teacher, student = affinity_inputs(H, W)
    errors = bench_affinity.relative_errors(bench_affinity.ours, bench_affinity.identity, teacher, student)
    assert max(errors) < AFFINITY_ERROR, f"not timed, because wrong: relative errors {errors} of loss and gradient"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [ODD, *SIZES], ids=str)
@pytest.mark.parametrize("network", FAMILIES)
@pytest.mark.parametrize("name", OURS)
def test_gpu_frames_are_right(name: str, network: str, size: tuple[int, int]) -> None:
    if name == OURS[0] and (reason := route.library.why_not_cuda()) is not None:
        pytest.skip(reason)
    with torch.inference_mode():
        verify({name: ours(name, network), EAGER: eager(network)}, size, network)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_affinity_is_right() -> None:
    verify_affinity(230, 310)


# ---- timing ----------------------------------------------------------------------------------------------------------


def timed(runs: dict[str, Callable[[int], object]], rounds: int) -> dict[str, Times]:
    """Milliseconds of each, taking turns; a run is given the number of its turn."""
    events = defaultdict(list)
    for turn in range(rounds):
        for name, run in runs.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run(turn)
            stop.record()
            events[name].append((start, stop))
    torch.cuda.synchronize()
    return {name: Times(tuple(start.elapsed_time(stop) for start, stop in of)) for name, of in events.items()}


def frames(network: str, size: tuple[int, int], names: Sequence[str], rounds: int) -> dict[str, Times]:
    """Of everyone who runs here; where PyTorch's compiler does not, the table says why."""
    images, runs, missing = pictures(size), {}, {}
    for name in names:
        if name == OURS[0] and (reason := route.library.why_not_cuda()) is not None:
            missing[name] = Times(missing=reason)
            continue
        try:
            runs[name] = COMPETITORS[name](network)
            for _ in range(3):  # compilers compile, graphs are captured
                for image in images:
                    runs[name](image)
        except Exception as error:
            if name != COMPILED:
                raise
            runs.pop(name, None)
            missing[name] = Times(missing=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    verify(runs, size, network)
    found = timed({name: lambda turn, run=run: run(images[turn % PICTURES]) for name, run in runs.items()}, rounds)
    return {name: found.get(name) or missing[name] for name in names}


def copy_bandwidth(rounds: int) -> float:
    """Bytes read and written a second."""
    source, target = (torch.empty(COPIED, dtype=torch.uint8, device="cuda").random_() for _ in range(2))
    times = timed({"copy": lambda _: target.copy_(source)}, rounds)["copy"]
    return 2 * COPIED / (times.median / 1e3)


def stages(name: str, network: str, size: tuple[int, int], rounds: int) -> list[StageTime]:
    """Of each kind of stage at each scale, in whole runs of the line on one band."""
    device, events = torch.device("cuda", 0), defaultdict(list)
    tensors = fold_norm(dict(famkern.models.load(network).state_dict()))
    tiling = traffic.CUDA if name == OURS[0] else traffic.TRITON

    def with_events(kind: str, *arguments: Any) -> None:
        outputs = arguments[3]
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        ops.stage(kind, *arguments)
        stop.record()
        events[kind_of(kind, -(-size[1] // outputs[0].shape[2]))].append((start, stop))

    where = {"dtype": torch.float32, "maps": torch.float16, "device": device}
    line = engine.lower(tensors, mean=IMAGE_MEAN, std=IMAGE_STD, **where)
    plan = engine.make_plan(line, *size, tile=1, memory=None, available=1 << 40, band=size[0])
    nowhere = types.SimpleNamespace(write=lambda *_: None)
    images = [picture[0].permute(1, 2, 0) for picture in pictures(size)]
    with kernels(name):
        for turn in range(3 + rounds):
            if turn == 3:  # warm
                events.clear()
            torch.cuda._sleep(1 << 26)  # so that the host is ahead, and no launch is waited for
            engine.run(plan, engine.Pixels(images[turn % PICTURES]), nowhere, device, operator=with_events)
    torch.cuda.synchronize()
    kinds = [kind_of(stage.kind, scale) for stage, scale in zip(line.stages, line.scales, strict=True)]
    moved = [traffic.stage_traffic(line, stage, tiling).total for stage in line.stages]
    return [
        StageTime(
            name,
            kind,
            kinds.count(kind),
            Times(tuple(start.elapsed_time(stop) for start, stop in of)),
            moved[kinds.index(kind)] * size[0] * size[1],
        )
        for kind, of in events.items()
    ]


def kind_of(kind: str, scale: int) -> str:
    """What a row of the table is of: "block", "block at 1/2"."""
    return kind.replace("_", " ") + (f" at 1/{scale}" if scale > 1 else "")


def affinity_inputs(H: int, W: int) -> tuple[Tensor, Tensor]:
    teacher, student = bench_affinity.inputs(H, W)
    return teacher.cuda(), student.detach().cuda().requires_grad_()


def affinity(size: tuple[int, int], rounds: int) -> dict[str, Times]:
    verify_affinity(230, 310)
    verify_affinity(*size)
    inputs = [affinity_inputs(*size) for _ in range(3)]
    losses = {"famkern": bench_affinity.ours, IDENTITY: bench_affinity.identity}
    runs = {
        name: lambda turn, loss=loss: bench_affinity.step(loss, *inputs[turn % len(inputs)])
        for name, loss in losses.items()
    }
    timed(runs, 3)
    return timed(runs, rounds)


# ---- the page --------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What this is measured on."""
    device = torch.cuda.get_device_properties(0)
    driver = "unknown: no nvidia-smi"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    triton = "not installed"
    with contextlib.suppress(ModuleNotFoundError):
        import triton as installed

        triton = installed.__version__
    return {
        "GPU": device.name,
        "multiprocessors, memory": f"{device.multi_processor_count}, {device.total_memory / 2**30:.0f} GiB",
        "driver": driver,
        "PyTorch": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "Triton": triton,
        "famkern": famkern.__version__,
        "Python": platform.python_version(),
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each measurement")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs/benchmarks")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench_gpu: nothing measured, PyTorch finds no CUDA device here")
        return 0
    names = [name for name in COMPETITORS if not (name == COMPILED and options.without_compile)]
    with torch.inference_mode():
        runnable = [name for name in OURS if name != OURS[0] or route.library.why_not_cuda() is None]
        for network in FAMILIES:
            verify({name: COMPETITORS[name](network) for name in [*runnable, EAGER]}, ODD, network)
        bandwidth = copy_bandwidth(options.rounds)
        cases = list(itertools.product(FAMILIES, SIZES))
        measured = {case: frames(*case, names, options.rounds) for case in cases}
        by_stage = {case: [s for name in runnable for s in stages(name, *case, options.rounds)] for case in cases}
    report = Report(
        machine=machine(),
        command=" ".join(["python benchmarks/bench_gpu.py", *arguments]),
        bandwidth=bandwidth,
        frames=measured,
        stages=by_stage,
        affinity=affinity(FOURK, options.rounds),
    )
    path = options.folder / gpu_report.file_name(report.machine["GPU"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(gpu_report.page(report))
    for what, goal, found, held in gpu_report.goals(report):
        print(f"{what:45} {goal:18} {found:14} {held}")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
