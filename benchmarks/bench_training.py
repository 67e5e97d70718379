"""A step of distillation: the student on famkern's operators and on PyTorch's, with the feature affinity fused or not.

    pytest benchmarks -k training -s      the table of docs/training.md; a wrong gradient is not timed but fails

Batch 2, 240 x 240, float32, on the CPU, AdamW. The teacher's output is given: what is compared is what trains.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from famkern import feature_affinity_loss
from famkern.models import Student
from famkern.training.fused import FusedStudent

THREADS = 2
BATCH, SIDE = 2, 240
ROUNDS = 9


def no_affinity(teacher: Tensor, student: Tensor) -> Tensor:
    return student.new_zeros(())


def paper_affinity(teacher: Tensor, student: Tensor) -> Tensor:
    """As the paper writes it, with its N x N matrices."""
    T, S = F.avg_pool2d(teacher, 8).flatten(2), F.avg_pool2d(student, 4).flatten(2)
    return torch.linalg.vector_norm(S.mT @ S - T.mT @ T) / S.shape[2] ** 2


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "famkern": lambda: FusedStudent(Student()),
    "PyTorch, channels_last": lambda: Student().to(memory_format=torch.channels_last),
    "PyTorch": Student,
}
AFFINITIES = {"none": no_affinity, "fused": feature_affinity_loss, "paper's formulation": paper_affinity}
COMPARED = [
    ("famkern", "none"),
    ("famkern", "fused"),
    ("famkern", "paper's formulation"),
    ("PyTorch, channels_last", "fused"),
    ("PyTorch", "paper's formulation"),
]


class Training:
    """One network with its optimiser, always on the same batch."""

    def __init__(self, network: str, affinity: str) -> None:
        torch.manual_seed(0)
        self.network, self.affinity = NETWORKS[network](), AFFINITIES[affinity]
        self.hazy, self.clear = torch.randn(BATCH, 3, SIDE, SIDE), torch.rand(BATCH, 3, SIDE, SIDE)
        if network == "PyTorch, channels_last":
            self.hazy = self.hazy.contiguous(memory_format=torch.channels_last)
        self.guide = torch.rand(BATCH, 3, 2 * SIDE, 2 * SIDE)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), fused=True)

    def gradients(self) -> Tensor:
        """All gradients of the loss as one vector."""
        self.optimiser.zero_grad()
        output = self.network(self.hazy)
        (F.mse_loss(output, self.clear) + 0.25 * self.affinity(self.guide, output)).backward()
        return torch.cat([p.grad.flatten() for p in self.network.parameters()])

    def step(self) -> None:
        self.gradients()
        self.optimiser.step()


def high_water() -> int:
    """Bytes of resident memory that this process has had at most; getrusage would tell of its parent too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def peak_bytes(network: str, affinity: str) -> int:
    """What two steps add to the process's peak of resident memory, in a process of its own."""
    command = [sys.executable, __file__, json.dumps([network, affinity])]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_training_step() -> None:
    torch.set_num_threads(THREADS)
    trainings = {key: Training(*key) for key in COMPARED}
    exact = trainings["PyTorch", "paper's formulation"].gradients()
    for key, training in trainings.items():
        if key[1] != "none":
            error = float((training.gradients() - exact).norm() / exact.norm())
            assert error < 1e-4, f"not timed, because wrong: relative error {error:.1e} of the gradient of {key}"
    times: dict[tuple[str, str], list[float]] = {key: [] for key in COMPARED}
    for _ in range(ROUNDS):
        for key, training in trainings.items():
            begin = time.perf_counter()
            training.step()
            times[key].append(time.perf_counter() - begin)
    medians = {key: statistics.median(taken) for key, taken in times.items()}

    # The affinity alone, since its share is far below the noise of whole steps.
    output = torch.rand(BATCH, 3, SIDE, SIDE, requires_grad=True)
    guide = torch.rand(BATCH, 3, 2 * SIDE, 2 * SIDE)
    alone = []
    for _ in range(50):
        begin = time.perf_counter()
        feature_affinity_loss(guide, output).backward()
        alone.append(time.perf_counter() - begin)
    share = statistics.median(alone) / medians["famkern", "fused"]
    print("\n| network | feature affinity | ms a step | peak MiB |\n|---|---|---|---|")
    for key in COMPARED:
        print(f"| {key[0]} | {key[1]} | {1e3 * medians[key]:.0f} | {peak_bytes(*key) / 2**20:.0f} |")
    print(f"fused feature affinity alone: {1e3 * statistics.median(alone):.2f} ms, {100 * share:.2f} % of a step")
    assert share < 0.01, f"the fused feature affinity takes {100 * share:.1f} % of a step; below 1 % expected"


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    training = Training(*json.loads(sys.argv[1]))
    before = high_water()
    training.step()
    training.step()
    print(high_water() - before)
