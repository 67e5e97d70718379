"""What bench_gpu.py measured, as numbers and as a page of Markdown. Knows no GPU."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FOURK = (2160, 3840)
FAMILIES = ("student", "u-indoor")  # one network of each
OURS = ("famkern, CUDA C++", "famkern, Triton")
EAGER = "PyTorch eager, float16, channels_last"
COMPILED = "torch.compile, max-autotune"
IDENTITY = "identity in plain PyTorch"
# The project's goals, for a 4K picture in float16 on an H100.
FRAME_GOAL, EAGER_GOAL, COMPILED_GOAL, AFFINITY_GOAL = 12.0, 5.0, 3.0, 0.5  # ms, times, times, ms


@dataclass(frozen=True)
class Times:
    """What was timed again and again, in milliseconds; none, and why, where it did not run."""

    milliseconds: tuple[float, ...] = ()
    missing: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.milliseconds) if self.milliseconds else None

    def __str__(self) -> str:
        if not self.milliseconds:
            return f"not measured: {self.missing}"
        few = self.milliseconds * 2 if len(self.milliseconds) == 1 else self.milliseconds
        low, *_, high = statistics.quantiles(few, n=10, method="inclusive")
        return f"{self.median:.3f} ({low:.3f} to {high:.3f})"


@dataclass(frozen=True)
class StageTime:
    """One kind of stage on one kind of kernels: how many there are, and of each its time and what it moves."""

    kernels: str
    stage: str
    count: int
    each: Times
    bytes: float  # read and written, halo not included

    def share(self, bandwidth: float) -> float | None:
        """Of the time that a copy of as many bytes takes, in the stage's own; `bandwidth` in bytes a second."""
        return None if self.each.median is None else self.bytes / bandwidth / (self.each.median / 1e3)


@dataclass(frozen=True)
class Report:
    """All of it."""

    machine: Mapping[str, str]  # what was used -> its name or version
    command: str
    bandwidth: float  # of a copy, bytes read and written a second
    # Network and (rows, columns) -> who -> a frame; -> each kind of stage.
    frames: Mapping[tuple[str, tuple[int, int]], Mapping[str, Times]]
    stages: Mapping[tuple[str, tuple[int, int]], Sequence[StageTime]]
    affinity: Mapping[str, Times] = field(default_factory=dict)  # forward and backward at 4K


def ratio(other: Times | None, own: Times | None) -> float | None:
    """How many times faster the second one is; None where either is missing."""
    if other is None or own is None or other.median is None or own.median is None:
        return None
    return other.median / own.median


def fastest(frames: Mapping[str, Times]) -> Times | None:
    """The faster one of our kernels."""
    ours = [frames[name] for name in OURS if name in frames and frames[name].median is not None]
    return min(ours, key=lambda times: times.median or 0.0, default=None)


def goals(report: Report) -> list[tuple[str, str, str, str]]:
    """(what, goal, measured, "yes", "no" or "open") for each goal of the project."""

    def judged(what: str, goal: float, measured: float | None, unit: str, at_most: bool) -> tuple[str, str, str, str]:
        limit = f"at {'most' if at_most else 'least'} {goal:g} {unit}"
        if measured is None:
            return what, limit, "not measured", "open"
        held = measured <= goal if at_most else measured >= goal
        return what, limit, f"{measured:.2f} {unit}", "yes" if held else "no"

    frames = report.frames.get((FAMILIES[0], FOURK), {})
    ours, fused = fastest(frames), report.affinity.get("famkern")
    return [
        judged("a frame of 3840 x 2160", FRAME_GOAL, ours.median if ours else None, "ms", True),
        judged(f"against {EAGER}", EAGER_GOAL, ratio(frames.get(EAGER), ours), "x", False),
        judged(f"against {COMPILED}", COMPILED_GOAL, ratio(frames.get(COMPILED), ours), "x", False),
        judged("feature affinity, forward and backward", AFFINITY_GOAL, fused.median if fused else None, "ms", True),
    ]


def file_name(gpu: str) -> str:
    """A file's name for a card: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3.md"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def page(report: Report) -> str:
    """The report in Markdown."""

    def title(network: str, size: tuple[int, int]) -> str:
        return f"### {network}, {size[1]} x {size[0]}"

    parts = [
        f"# {report.machine['GPU']}",
        f"Measured with\n\n    {report.command}\n\nby device events: median of many runs that take turns, with the tenth "
        "and the ninetieth of a hundred in brackets; several inputs in rotation. Whoever is timed was checked first.",
        table(("", ""), list(report.machine.items())),
        f"## Goals\n\nOf the project, for an H100 and {FAMILIES[0]}.",
        table(("", "goal", "measured", "held"), goals(report)),
        f"## Frames\n\nFrom a float16 picture on the GPU to another one; milliseconds. A device-to-device copy moves "
        f"{report.bandwidth / 1e9:,.0f} GB/s, bytes read and written counted.",
    ]
    for key, frames in report.frames.items():
        ours = fastest(frames)
        rows = []
        for name, times in frames.items():
            faster = None if name in OURS else ratio(times, ours)
            rows.append((name, str(times), f"{faster:.2f} x" if faster else ""))
        parts += [title(*key), table(("", "ms", "famkern is faster"), rows)]
    parts.append(
        "## Stages\n\nEach alone, all of its launches. What it moves is counted from the line of stages: every map once, "
        "without halo (docs/gpu-kernels.md). The share is that of the time that a copy of as many bytes takes."
    )
    for (network, size), stages in report.stages.items():
        rows = []
        for stage in stages:
            share = stage.share(report.bandwidth)
            moved = f"{stage.bytes / (size[0] * size[1]):.1f}"
            rows.append(
                (stage.kernels, stage.stage, str(stage.count), str(stage.each), moved, f"{share:.0%}" if share else "")
            )
        parts += [
            title(network, size),
            table(("kernels", "stage", "number", "ms each", "bytes a pixel", "share of copy bandwidth"), rows),
        ]
    rows = [(name, str(times)) for name, times in report.affinity.items()]
    parts += [
        "## Feature affinity\n\nForward and backward, student 3840 x 2160, teacher 7680 x 4320, float32; milliseconds.",
        table(("", "ms"), rows),
    ]
    return "\n\n".join(parts) + "\n"
