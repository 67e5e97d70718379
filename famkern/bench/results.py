"""What was measured: as data, as JSON, as a picture."""

from __future__ import annotations

import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import torch

from .. import __version__, images
from ..ops import library
from .quality import CITED, MEASURED, MULTIPLY_ADDS

FAMKERN = "famkern"


class WrongResultError(Exception):
    """A result is not what it must be: it is not timed."""


Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Entry:
    """One thing to be timed: a network, what runs it, and how.

    model   a name of the zoo, or a file
    engine  "famkern" or one of ENGINES
    scale   1 to 8, of famkern
    dtype   of famkern's maps
    """

    model: str
    engine: str = FAMKERN
    scale: int = 1
    dtype: str = "float32"

    @property
    def label(self) -> str:
        """As tables name it."""
        details = [f"scale {self.scale}"] if self.scale != 1 else []
        details += [f"{self.dtype} maps"] if self.dtype != "float32" else []
        return ", ".join([self.engine, *details])


@dataclass(frozen=True)
class Row:
    """Seconds that one entry took for a picture of one size, in every round."""

    entry: Entry
    height: int
    width: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Difference of the quartiles of all rounds, as a part of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


@dataclass(frozen=True)
class Memory:
    """Bytes of resident memory that one picture took at most, beyond those of the process before it."""

    entry: Entry
    height: int
    width: int
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """What else famkern does, beside what would do the same.

    title       what the work is
    unit        what the seconds are of: step, file, frame
    seconds     of each that took part, in every round; the first is famkern
    left_out    what did not take part, and why
    """

    title: str
    unit: str
    seconds: dict[str, tuple[float, ...]]
    left_out: dict[str, str]

    @property
    def medians(self) -> dict[str, float]:
        """Seconds."""
        return {label: statistics.median(seconds) for label, seconds in self.seconds.items()}

    def rows(self) -> list[tuple[str, str, str]]:
        """What tables have of each: its label, its median, and how many times the first one's that is."""
        medians = self.medians
        first = next(iter(medians.values()), 0.0)
        return [(label, in_words(median), in_times(median / first)) for label, median in medians.items()]


@dataclass(frozen=True)
class LeftOut:
    """What was not measured (at one size, or at all), and why."""

    entry: Entry
    size: Size | None
    reason: str


@dataclass
class Results:
    """All figures of a run, and where it ran."""

    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @classmethod
    def of_this_machine(cls, threads: int) -> Results:
        """None yet."""
        reason = library.why_not_compiled()
        return cls(
            {
                "processor": _processor(),
                "threads": threads,
                "kernels": library.instruction_set() if reason is None else f"PyTorch's operators: {reason}",
                "system": platform.platform(),
                "famkern": __version__,
                "torch": torch.__version__,
            }
        )

    def leave_out(self, entry: Entry, size: Size | None, reason: str) -> None:
        """Note what is not measured."""
        self.left_out.append(LeftOut(entry, size, reason))

    def groups(self) -> list[list[Row]]:
        """The rows of each network and size; the first of them is famkern's at scale 1 in float32."""
        found: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
        for row in self.rows:
            found[row.entry.model, row.height, row.width].append(row)
        return list(found.values())

    def to_json(self) -> str:
        """With the median and the spread of each row beside its seconds."""
        data = asdict(self)
        for entry, row in zip(data["rows"], self.rows, strict=True):
            entry |= {"median": row.median, "spread": row.spread}
        for entry, comparison in zip(data["comparisons"], self.comparisons, strict=True):
            entry["medians"] = comparison.medians
        return json.dumps(data, indent=1)

    def write_json(self, path: str | PathLike[str]) -> None:
        """Write a file, whole or not at all; raises ImageError if it cannot be written."""
        with images.replacing(path) as file:
            file.write(self.to_json().encode())


def psnr_of(row: Row) -> float | None:
    """PSNR in dB on the 70 pairs of SOTS-indoor, as the card of these weights states it; None of other engines."""
    return MEASURED.get(row.entry.model, {}).get(row.entry.scale) if row.entry.engine == FAMKERN else None


def in_words(seconds: float) -> str:
    """With a unit that makes it short."""
    return (
        f"{1e3 * seconds:.3g} ms"
        if seconds < 0.01
        else f"{1e3 * seconds:.0f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
    )


def in_times(ratio: float) -> str:
    """With two digits or more."""
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def plot(results: Results, path: str | PathLike[str]) -> None:
    """Time and memory against megapixels, and PSNR against time, as a PNG picture.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ImageError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 6), layout="constrained")
    times, memory, quality = figure.subplots(1, 3)
    looks = _Looks([row.entry for row in results.rows])
    _plot_growth(times, [(r.entry, r.height * r.width / 1e6, r.median) for r in results.rows], looks)
    times.set(xlabel="megapixels", ylabel="seconds", title="Time of a picture")
    _plot_growth(memory, [(m.entry, m.height * m.width / 1e6, m.bytes / 2**30) for m in results.memory], looks)
    memory.set(xlabel="megapixels", ylabel="GiB above start-up", title="Memory")
    _plot_quality(quality, results)
    figure.legend(handles=looks.handles(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(f"famkern on {results.machine['processor']}, {results.machine['threads']} threads", fontsize=10)
    with images.replacing(path) as file:
        figure.savefig(file, format="png", dpi=130)


class _Looks:
    """Of lines: a colour for each engine, scale and precision, a style for each network; famkern's are thick."""

    styles = ("-", "--", ":", "-.")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.labels = list(dict.fromkeys(entry.label for entry in entries))
        self.models = list(dict.fromkeys(entry.model for entry in entries))

    def of(self, entry: Entry) -> dict[str, Any]:
        """What Axes.plot takes."""
        return {**self._label(entry.label), "linestyle": self._style(entry.model)}

    def handles(self) -> list[Any]:
        """What a legend takes."""
        from matplotlib.lines import Line2D

        models = [Line2D([], [], color="black", linestyle=self._style(each), label=each) for each in self.models]
        return models + [Line2D([], [], **self._label(each), label=each) for each in self.labels]

    def _label(self, label: str) -> dict[str, Any]:
        ours = label.startswith(FAMKERN)
        return {
            "color": f"C{self.labels.index(label) % 10}",
            "linewidth": 1.8 if ours else 0.9,
            "marker": "o" if ours else "x",
            "markersize": 4,
        }

    def _style(self, model: str) -> Any:
        return self.styles[self.models.index(model) % len(self.styles)]


def _plot_growth(axes: Any, points: Sequence[tuple[Entry, float, float]], looks: _Looks) -> None:
    lines: dict[Entry, list[tuple[float, float]]] = defaultdict(list)
    for entry, x, y in points:
        lines[entry].append((x, y))
    for entry, line in lines.items():
        axes.plot(*zip(*line, strict=True), **looks.of(entry))
    axes.set(xscale="log", yscale="log")
    megapixels = sorted({x for _, x, _ in points})
    axes.set_xticks(megapixels, [f"{x:.2g}" for x in megapixels])
    axes.set_xticks([], minor=True)
    axes.grid(True, which="both", alpha=0.25)


def _plot_quality(axes: Any, results: Results) -> None:
    """At the largest size that every entry of famkern was measured at; cited ones hollow, where channels_last would be."""
    ours = [row for row in results.rows if row.entry.engine == FAMKERN and row.entry.dtype == "float32"]
    largest = max((row.height * row.width for row in ours), default=0)
    for number, model in enumerate(dict.fromkeys(row.entry.model for row in ours)):
        known = [(row, psnr_of(row)) for row in ours if row.entry.model == model and row.height * row.width == largest]
        points = sorted((row.median, psnr, row.entry.scale) for row, psnr in known if psnr is not None)
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=f"C{number}", label=model)
        for x, y, scale in points:
            axes.annotate(
                f"scale {scale}", (x, y), fontsize=7, xytext=(0, -11 + 16 * number), textcoords="offset points"
            )
    eager = [
        (row, MULTIPLY_ADDS[row.entry.model])
        for row in results.rows
        if row.entry.engine == "PyTorch, channels_last" and row.entry.model in MULTIPLY_ADDS
    ]
    if eager:
        each = statistics.median(row.median / (row.height * row.width * each) for row, each in eager)
        for name, (psnr, multiply_adds) in CITED.items():
            seconds = each * multiply_adds * largest
            axes.plot(seconds, psnr, "o", markerfacecolor="none", color="tab:gray")
            axes.annotate(name, (seconds, psnr), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.set(xscale="log", xlabel="seconds", ylabel="PSNR in dB, SOTS-indoor")
    axes.set_title(
        f"PSNR and time of {largest / 1e6:.1f} megapixels\nhollow: cited, time by multiply-adds in PyTorch", fontsize=8
    )
    axes.margins(x=0.15)
    if ours:
        axes.legend(fontsize=8, loc="upper left")
    axes.grid(True, which="both", alpha=0.25)
