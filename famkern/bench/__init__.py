"""How fast famkern is on this machine, beside what else would run the same network: the command `famkern bench`.

    results = run(plan("quick"), progress=print)
    results.write_json("bench.json")
    plot(results, "bench.png")

A wrong result is never timed. Engines take turns, round by round, in one process, so that a noisy neighbour meets all of
them; figures are medians, with their spread.
"""

from .engines import ENGINES, Missing
from .measuring import Plan, interleaved, plan, run
from .page import page
from .results import FAMKERN, Comparison, Entry, Memory, Results, Row, WrongResultError, plot
from .suites import SUITES

__all__ = [
    "ENGINES",
    "FAMKERN",
    "SUITES",
    "Comparison",
    "Entry",
    "Memory",
    "Missing",
    "Plan",
    "Results",
    "Row",
    "WrongResultError",
    "interleaved",
    "page",
    "plan",
    "plot",
    "run",
]
