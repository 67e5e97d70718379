"""What is measured, and how: see the package."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .. import models
from ..dehazer import Dehazer
from ..export import Pipeline
from .engines import ENGINES, Missing, Run
from .results import FAMKERN, Comparison, Entry, Memory, Results, Row, Size, WrongResultError
from .suites import SUITES

GATE = (1, 3, 131, 257)  # an odd picture, on which results are compared with float64 before anything is timed
ERROR, ERROR_16_BIT = 1e-4, 1e-2  # that a result may have at most, of values in [0, 1]
LONG = 3.0  # seconds, of a run that does not notice what ran before it
SHORT = 0.1  # seconds, of a run that is too short to be timed alone

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run measures.

    models   each with every engine
    scales   of famkern, 1 among them
    sizes    (height, width) of pictures, from small to large
    rounds   in which all take turns, at each size: at least 3, at most this many
    seconds  for the rounds of one size, about, by the times at the size before
    limit    seconds: an engine that would take longer for one picture, by its time at the size before, is left out
    memory   (height, width) at which memory is measured, each in a process of its own
    suites   what else is compared, names out of SUITES
    threads  None for PyTorch's setting
    """

    models: Sequence[str] = ("student", "u-indoor")
    engines: Sequence[str] = tuple(ENGINES)
    scales: Sequence[int] = (1, 2, 3, 6)
    sizes: Sequence[Size] = ((256, 256), (512, 512), (1080, 1920), (2160, 3840))
    rounds: int = 9
    seconds: float = 90.0
    limit: float = 30.0
    memory: Sequence[Size] = ((512, 512), (1080, 1920), (2160, 3840))
    suites: Sequence[str] = tuple(SUITES)
    threads: int | None = None


QUICK = Plan(
    engines=("ONNX Runtime", "PyTorch, channels_last"),
    scales=(1, 3),
    sizes=((512, 512), (1080, 1920)),
    rounds=3,
    limit=2.0,
    memory=((1080, 1920),),
    suites=(),
)


def plan(name: Literal["quick", "full"] = "full", *, threads: int | None = None) -> Plan:
    """The plan of this name: "quick" takes less than two minutes on two cores."""
    return replace(QUICK if name == "quick" else Plan(), threads=threads)


def interleaved(runs: Sequence[Run], image: Tensor, rounds: int) -> list[list[float]]:
    """Seconds of each function for this picture, which take turns `rounds` times. They have run before."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for index, run in enumerate(runs):
            seconds = _seconds(partial(run, image))
            # What the one before it left in the caches and in idle threads is not this one's time, where that is short.
            taken[index].append(seconds if seconds > LONG else _seconds(partial(run, image)))
    return taken


def run(plan: Plan, progress: Progress = lambda line: None) -> Results:
    """Measure what a plan says, on the CPU.

    Args:
        plan: see there.
        progress: is told what is being done, in one line each time.

    Raises:
        WrongResultError: if a result is not that of the network.
        WeightsError: if a model cannot be loaded.
    """
    before = torch.get_num_threads()
    threads = plan.threads or before
    results = Results.of_this_machine(threads)
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for model in plan.models:
                progress(f"{model}: is it right?")
                _gate(plan, model, threads)
                _measure_times(plan, model, threads, results, progress)
        for name in plan.suites:
            progress(f"{name}: is it right?")
            results.comparisons.append(_compare(name, plan, threads, progress))
    finally:
        torch.set_num_threads(before)
    for size in plan.memory if sys.platform == "linux" else ():
        for entry in _memory_entries(plan):
            progress(f"memory: {entry.model}, {entry.label}, {size[1]} x {size[0]}")
            results.memory.append(Memory(entry, *size, _peak(entry, size, threads)))
    return results


def _ours(plan: Plan, model: str) -> list[Entry]:
    return [Entry(model), Entry(model, dtype="float16"), *(Entry(model, scale=k) for k in plan.scales if k != 1)]


def _memory_entries(plan: Plan) -> list[Entry]:
    others = [Entry(plan.models[0], engine) for engine in plan.engines if engine == "PyTorch, channels_last"]
    return [entry for model in plan.models for entry in _ours(plan, model)] + others


def _gate(plan: Plan, model: str, threads: int) -> None:
    """Compare famkern with the network in float64, and at reduced scale with itself in float64."""
    image = torch.rand(GATE, generator=torch.Generator().manual_seed(0))
    exact = Pipeline(models.load(model)).eval().double()(image.double())
    for entry in _ours(plan, model):
        wanted = exact
        if entry.scale != 1:
            wanted = Dehazer(model, device="cpu", threads=threads, scale=entry.scale, dtype="float64")(image.double())
        _check(entry, _function(entry, GATE[2:], threads)(image), wanted)


def _check(entry: Entry, result: Tensor, wanted: Tensor) -> None:
    error = float((result - wanted).abs().max())
    if not error < (ERROR if entry.dtype == "float32" else ERROR_16_BIT):
        raise WrongResultError(f"{entry.model}, {entry.label}: wrong by {error:.1e}, and so not timed")


def _function(entry: Entry, size: Sequence[int], threads: int) -> Run:
    if entry.engine == FAMKERN:
        return Dehazer(entry.model, device="cpu", threads=threads, scale=entry.scale, dtype=entry.dtype)
    height, width = size
    return ENGINES[entry.engine](Pipeline(models.load(entry.model)).eval(), (height, width), threads)


def _measure_times(plan: Plan, model: str, threads: int, results: Results, progress: Progress) -> None:
    entries = _ours(plan, model) + [Entry(model, engine) for engine in plan.engines]
    last: dict[Entry, float] = {}  # seconds a pixel, at the size before
    for height, width in plan.sizes:
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
        runs: dict[Entry, Run] = {}
        exact: Tensor | None = None
        for entry in entries:
            expected = last.get(entry, 0.0) * height * width
            if entry.engine != FAMKERN and expected > plan.limit:
                results.leave_out(entry, (height, width), f"would take {expected:.0f} s a picture")
                continue
            progress(f"{model}, {width} x {height}: {entry.label}")
            try:
                function = _function(entry, (height, width), threads)
            except Missing as missing:
                entries = [other for other in entries if other != entry]
                results.leave_out(entry, (height, width) if entry in last else None, str(missing))
                continue
            result = function(image)  # compilers compile, memory is got
            if exact is None:
                exact = result
            if entry.scale == 1:
                _check(entry, result, exact)
            runs[entry] = function
        a_round = 2 * sum(last.get(entry, 0.0) for entry in runs) * height * width
        rounds = min(plan.rounds, max(3, int(plan.seconds / a_round))) if a_round else plan.rounds
        progress(f"{model}, {width} x {height}: {rounds} rounds of {len(runs)}")
        for entry, seconds in zip(runs, interleaved(list(runs.values()), image, rounds), strict=True):
            row = Row(entry, height, width, tuple(seconds))
            last[entry] = row.median / (height * width)
            results.rows.append(row)


def _compare(name: str, plan: Plan, threads: int, progress: Progress) -> Comparison:
    with SUITES[name](threads) as suite:
        first = {label: _seconds(run) for label, run in suite.runs.items()}  # memory is got, threads are started
        rounds = min(plan.rounds, max(3, int(plan.seconds / sum(first.values())))) if first else 0
        taken: dict[str, list[float]] = {label: [] for label in suite.runs}
        for turn in range(rounds):
            progress(f"{suite.title}: round {turn + 1} of {rounds}")
            for label, run in suite.runs.items():
                repeats = max(1, int(SHORT / first[label]))
                taken[label].append(_seconds(run, repeats) / (repeats * suite.units))
        seconds = {label: tuple(each) for label, each in taken.items()}
        return Comparison(suite.title, suite.unit, seconds, suite.left_out)


def _seconds(run: Callable[[], object], repeats: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - start


def _peak(entry: Entry, size: Size, threads: int) -> int:
    """Bytes of resident memory that one picture takes at most, beyond those of the process before it."""
    probe = f"""
        import torch
        from famkern.bench.measuring import Entry, _function
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        torch.set_num_threads({threads})
        with torch.inference_mode():
            run = _function({entry!r}, {size!r}, {threads})
            run(torch.rand(1, 3, 16, 16))
            image = torch.rand(1, 3, *{size!r})
            before = peak()
            run(image)
        print((peak() - before) * 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(probe)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
