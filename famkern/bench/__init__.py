"""How fast famkern is on this machine, beside what else would run the same network: the command `famkern bench`.

    results = run(plan("quick"), progress=print)
    results.write_json("bench.json")
    plot(results, "bench.png")

A wrong result is never timed. Engines take turns, round by round, in one process, so that a noisy neighbour meets all of
them; figures are medians, with their spread.
"""

from .engines import ENGINES, Missing, Network
from .measuring import FAMKERN, Entry, Plan, WrongResultError, interleaved, plan, run
from .results import Memory, Results, Row, plot

__all__ = [
    "ENGINES",
    "FAMKERN",
    "Entry",
    "Memory",
    "Missing",
    "Network",
    "Plan",
    "Results",
    "Row",
    "WrongResultError",
    "interleaved",
    "plan",
    "plot",
    "run",
]
