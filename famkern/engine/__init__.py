"""Runs a student over a picture of any size: the network as a line of stages, the picture as bands of rows.

line.py     a network's tensors become the line of stages
plan.py     picture, precision and memory bound become band height and storage
storage.py  where the maps live: RAM, a GPU's memory, or a spill file
host.py     or, for a run on a GPU, the host's memory
pixels.py   pictures in and out, a band at a time
run.py      the one loop
reduced.py  the same at reduced scale: reduce, run, carry over
checks.py   what must hold for a run to be right
graphs.py   the same run again and again, on a GPU
memory.py   how much memory there is
traffic.py  bytes that the stages move through a GPU's memory
"""

from .checks import Checks
from .graphs import Graphs, key_of
from .line import Stage, lower
from .memory import available_memory, format_bytes, parse_bytes
from .pixels import Pixels
from .plan import MemoryBoundError, Plan, make_plan
from .reduced import ReducedPlan, plan_reduced, run_reduced
from .run import run

__all__ = [
    "Checks",
    "Graphs",
    "MemoryBoundError",
    "Pixels",
    "Plan",
    "ReducedPlan",
    "Stage",
    "available_memory",
    "format_bytes",
    "key_of",
    "lower",
    "make_plan",
    "parse_bytes",
    "plan_reduced",
    "run",
    "run_reduced",
]
