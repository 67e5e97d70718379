"""Is this tree faster or slower than another commit? Times of both, interleaved, as ratios: noise is the same to both.

    python benchmarks/compare_commits.py BASE [--rounds 15] [--threads 2]        (make bench-check BASE=main)

The other commit is built in build/base. Each tree has a process of its own, which loads and warms up once; then they take
turns. Results are compared first: where they differ by more than rounding, that is said and nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASE = ROOT / "build/base"
CASES = [
    (model, scale, *size) for model in ("student", "u-indoor") for scale, size in ((1, (512, 512)), (3, (1080, 1920)))
]
MOST = 1e-4  # by which results may differ: they are in [0, 1]

# Answers lines of cases with seconds, and at first with a result. Weights are drawn, since those that ship may differ.
WORKER = """
import json, sys, time
import torch
import famkern
from famkern.models import Student, UStudent
torch.set_num_threads(int(sys.argv[1]))
ready = {}
for line in sys.stdin:
    model, scale, height, width = case = tuple(json.loads(line))
    if case not in ready:
        torch.manual_seed(0)
        network = Student() if model == "student" else UStudent()
        image = torch.rand(3, height, width)
        ready[case] = famkern.Dehazer(network, scale=scale), image
        ready[case][0](image)
        print(json.dumps(ready[case][0](image)[:, ::97, ::89].tolist()), flush=True)
        continue
    dehazer, image = ready[case]
    begin = time.perf_counter()
    dehazer(image)
    print(time.perf_counter() - begin, flush=True)
"""


class Worker:
    """A process with famkern of one tree."""

    def __init__(self, tree: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(threads)],
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, case: tuple[object, ...]) -> object:
        """A result at first, then seconds."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(case), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("one of the processes ended; what it said stands above")
        return json.loads(answer)


def build(commit: str) -> None:
    """The tree of a commit, with its compiled kernels, in build/base."""
    if BASE.exists():
        shutil.rmtree(BASE)
    BASE.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(BASE)], input=archive, check=True)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=BASE, check=True)
    for name in ("kernels", "training"):
        (BASE / "famkern" / name).symlink_to(f"../{name}")


def difference(one: object, other: object) -> float:
    """The greatest, between nested lists of numbers."""
    if isinstance(one, list) and isinstance(other, list):
        return max(difference(*pair) for pair in zip(one, other, strict=True))
    return abs(float(one) - float(other))  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the speed of this tree with that of another commit.")
    parser.add_argument("base")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    build(options.base)
    base, here = Worker(BASE, options.threads), Worker(ROOT, options.threads)
    print(f"{'':38} {options.base[:12]:>12} {'this tree':>12} {'ratio':>7}  quartiles of the ratio")
    wrong = 0
    for case in CASES:
        model, scale, height, width = case
        name = f"{model}, scale {scale}, {width} x {height}"
        apart = difference(base.ask(case), here.ask(case))
        if apart > MOST:
            print(f"{name:38} results differ by {apart:.1e}: not timed")
            wrong += 1
            continue
        times = [(float(base.ask(case)), float(here.ask(case))) for _ in range(options.rounds)]  # type: ignore[arg-type]
        before, now = (statistics.median(column) for column in zip(*times, strict=True))
        low, ratio, high = statistics.quantiles([mine / other for other, mine in times], n=4)
        print(f"{name:38} {1e3 * before:9.1f} ms {1e3 * now:9.1f} ms {ratio:7.3f}  {low:.3f} to {high:.3f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
