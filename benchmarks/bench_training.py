"""A step of distillation: the student on famkern's operators and on PyTorch's, with the feature affinity fused or not.

    pytest benchmarks -k training -s      the table of docs/training.md; a wrong gradient is not timed but fails

Batch 2, 240 x 240, float32, on the CPU, AdamW. The teacher's output is given: what is compared is what trains.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from famkern import bench, feature_affinity_loss
from famkern.bench import FAMKERN
from famkern.bench.suites import BATCH, SIDE, trainings

THREADS = 2
ROUNDS = 9


def high_water() -> int:
    """Bytes of resident memory that this process has had at most; getrusage would tell of its parent too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def peak_bytes(label: str) -> int:
    """What two steps add to the process's peak of resident memory, in a process of its own."""
    command = [sys.executable, __file__, label]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_training_step() -> None:
    torch.set_num_threads(THREADS)
    plan = bench.Plan(models=(), memory=(), suites=("training",), rounds=ROUNDS, threads=THREADS)
    (steps,) = bench.run(plan).comparisons  # a wrong gradient ends it
    medians = steps.medians

    # The affinity alone, since its share is far below the noise of whole steps.
    output = torch.rand(BATCH, 3, SIDE, SIDE, requires_grad=True)
    guide = torch.rand(BATCH, 3, 2 * SIDE, 2 * SIDE)
    alone = []
    for _ in range(50):
        begin = time.perf_counter()
        feature_affinity_loss(guide, output).backward()
        alone.append(time.perf_counter() - begin)
    share = statistics.median(alone) / medians[FAMKERN]
    print("\n| network, feature affinity | ms a step | peak MiB |\n|---|---|---|")
    for label, median in medians.items():
        print(f"| {label} | {1e3 * median:.0f} | {peak_bytes(label) / 2**20:.0f} |")
    print(f"fused feature affinity alone: {1e3 * statistics.median(alone):.2f} ms, {100 * share:.2f} % of a step")
    assert share < 0.01, f"the fused feature affinity takes {100 * share:.1f} % of a step; below 1 % expected"


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    step = trainings()[sys.argv[1]]().step
    before = high_water()
    step()
    step()
    print(high_water() - before)
