"""The feature affinity loss, forward and backward, beside what a user would write instead.

    pytest benchmarks -k affinity                 times; a wrong kernel is not timed but fails
    python benchmarks/bench_affinity.py           the plot and the tables of docs/fam.md

Competitors: the paper's formulation with its N x N matrices, and the identity in plain PyTorch as one would write it,
in the precision of the maps with float64 C x C matrices. Student [1, 3, H, W], teacher [1, 3, 2 H, 2 W], float32, CPU.
"""

from __future__ import annotations

import ctypes
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from famkern.bench.suites import gradient as step
from famkern.bench.suites import identity, paper
from famkern.bench.suites import maps as inputs
from famkern.ops.affinity import feature_affinity_loss, reference

THREADS = 2
CLAIMED_SIZE = (460, 620)
SIZES = [(96, 128), (230, 310), CLAIMED_SIZE, (1080, 1920), (2160, 3840)]
MEMORY_LIMIT = 8 * 2**30  # where the paper's formulation is given up


def ours(teacher: Tensor, student: Tensor) -> Tensor:
    return feature_affinity_loss(teacher, student)


def relative_errors(
    loss: Callable[[Tensor, Tensor], Tensor], exact: Callable, teacher: Tensor, student: Tensor
) -> list[float]:
    """Of the loss and of the student's gradient, to `exact` in float64."""
    results = []
    for function, t, s in ((loss, teacher, student.detach()), (exact, teacher.double(), student.detach().double())):
        s.requires_grad_()
        value = function(t, s)
        results.append((value.detach(), *torch.autograd.grad(value, s)))
    return [float((g.double() - w).norm() / w.norm()) for g, w in zip(*results, strict=True)]


def verify(H: int, W: int) -> None:
    """The gate: ours against the paper's formula where it fits, against the identity in float64 elsewhere."""
    exact = reference if H * W <= 96 * 128 else identity
    errors = relative_errors(ours, exact, *inputs(H, W))
    assert max(errors) < 1e-5, f"not timed, because wrong: relative errors {errors} of loss and gradient at {H} x {W}"


def interleaved(functions: list[Callable], H: int, W: int, repeats: int) -> list[float]:
    """Median seconds of each function's forward and backward, taking turns so that all see the same machine."""
    teacher, student = inputs(H, W)
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 2):  # two to warm up
        for function, taken in zip(functions, times, strict=True):
            begin = time.perf_counter()
            for _ in range(10 if function is not paper else 1):
                step(function, teacher, student)
            if turn >= 2:
                taken.append((time.perf_counter() - begin) / (10 if function is not paper else 1))
    return [statistics.median(taken) for taken in times]


def copy_bandwidth(count: int) -> float:
    """Bytes a second, read and written, of a copy of `count` float32."""
    source, target, times = torch.rand(count), torch.empty(count), []
    for _ in range(20):
        begin = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - begin)
    return 8 * count / min(times)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("function", [ours, identity, paper], ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_affinity(benchmark, size, function) -> None:
    benchmark.group = f"affinity {size[0]}x{size[1]}"
    verify(*size)
    if function is paper and size[0] * size[1] > CLAIMED_SIZE[0] * CLAIMED_SIZE[1]:
        pytest.skip("its N x N matrices do not fit")
    teacher, student = inputs(*size)
    rounds = 3 if function is paper else 30
    benchmark.pedantic(step, (function, teacher, student), rounds=rounds, warmup_rounds=0 if function is paper else 3)


def test_affinity_claims() -> None:
    """At 460x620: 1500x the paper's formulation and 1.5x the identity in plain PyTorch."""
    verify(*CLAIMED_SIZE)
    mine, plain = interleaved([ours, identity], *CLAIMED_SIZE, repeats=20)
    (slow,) = interleaved([paper], *CLAIMED_SIZE, repeats=3)
    print(f"\nours {mine * 1e3:.2f} ms, identity {plain / mine:.2f}x, paper {slow * 1e3:.0f} ms = {slow / mine:.0f}x")
    assert slow / mine >= 1500
    assert plain / mine >= 1.5


# ---- the plot and the tables -----------------------------------------------------------------------------------------

CURVES = {"paper": paper, "identity": identity, "ours": ours}
PLOT_SIZES = [
    (72, 96),
    (108, 192),
    (180, 320),
    (270, 480),
    (460, 620),
    (540, 960),
    (720, 1280),
    (1080, 1920),
    (2160, 3840),
]


def measure(name: str, H: int, W: int) -> dict[str, float]:
    """Run in a process of its own: best seconds, and bytes at the peak beyond inputs and gradient."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    torch.set_num_threads(1)  # best of many is then true on a busy machine too

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])

    step(CURVES[name], *inputs(32, 32))
    teacher, student = inputs(H, W)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else freed memory is used again without being seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    step(CURVES[name], teacher, student)
    extra = status("VmHWM") - before - 4 * student.numel()
    times = []
    while len(times) < 2 or sum(times) < 2:  # for two seconds
        begin = time.perf_counter()
        step(CURVES[name], teacher, student)
        times.append(time.perf_counter() - begin)
    return {"seconds": min(times), "bytes": max(extra, 4096)}


def plot(path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "famkern"
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {"paper": "paper's formulation", "identity": "identity in plain PyTorch", "ours": "famkern"}
    for name, label in labels.items():
        points = []
        for H, W in PLOT_SIZES:
            command = [sys.executable, __file__, name, str(H), str(W)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                assert "memory" in done.stderr, done.stderr
                print(f"{name:9} {H}x{W}: more than {MEMORY_LIMIT / 2**30:.0f} GiB")
                break
            points.append((H * W, json.loads(done.stdout)))
            print(
                f"{name:9} {H}x{W}: {points[-1][1]['seconds'] * 1e3:9.2f} ms {points[-1][1]['bytes'] / 2**20:9.2f} MiB"
            )
        pixels = [p / 1e6 for p, _ in points]
        axes[0].loglog(pixels, [1e3 * m["seconds"] for _, m in points], "o-", label=label)
        axes[1].loglog(pixels, [m["bytes"] / 2**20 for _, m in points], "o-", label=label)
    axes[0].set(title="forward + backward, one thread", xlabel="student's megapixels", ylabel="milliseconds")
    axes[1].set(title="peak memory beyond inputs and gradient", xlabel="student's megapixels", ylabel="MiB")
    axes[1].axhline(MEMORY_LIMIT / 2**20, color="grey", linestyle=":", label=f"limit: {MEMORY_LIMIT / 2**30:.0f} GiB")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(path)


def tables() -> None:
    """Errors to float64, and the share of copy bandwidth."""
    H, W = 230, 310
    print(f"relative error of loss and gradient to float64 at {H}x{W}, paper's formulation in float32 | ours")
    for label, distance in (("random", None), ("S' near T', 1e-3", 1e-3), ("S' near T', 1e-6", 1e-6)):
        teacher, student = inputs(H, W)
        if distance is not None:
            teacher = F.interpolate(student.detach(), scale_factor=2)
            student = (student + distance * torch.randn_like(student)).detach()
        rows = [relative_errors(f, reference, teacher, student) for f in (paper, ours)]
        print(f"{label:18}", " | ".join(f"{a:.1e} {b:.1e}" for a, b in rows))
    torch.set_num_threads(THREADS)
    for H, W in (CLAIMED_SIZE, (1080, 1920), (2160, 3840)):
        (mine,) = interleaved([ours], H, W, repeats=15)
        moved = 4 * (12 * H * W + 3 * H * W + 3 * H * W)  # teacher and student read, gradient written
        print(f"{H}x{W}: {mine * 1e3:.2f} ms, {moved / mine / copy_bandwidth(12 * H * W):.0%} of copy bandwidth")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        plot(Path(__file__).parents[1] / "docs/images/fam.svg")
        tables()
