"""Runs a student over a picture of any size: the network as a line of stages, the picture as bands of rows.

line.py     the network as a line of stages, and what their maps are
lowering.py a network's tensors become that line
arena.py    which maps share memory, and how
plan.py     picture, line and memory bound become band height and storage
storage.py  where the maps live: RAM, a GPU's memory, or a spill file
host.py     or, for a run on a GPU, the host's memory
pixels.py   pictures in and out, a band at a time
means.py    means of maps, for channel attention; their averages over frames
run.py      the one loop
reduced.py  the same at reduced scale: reduce, run, carry over
checks.py   what must hold for a run to be right
graphs.py   the same run again and again, on a GPU
memory.py   how much memory there is
traffic.py  bytes that the stages move through a GPU's memory
"""

from .checks import Checks
from .graphs import Graphs, key_of
from .line import Line, Map, Stage
from .lowering import lower
from .means import Averages
from .memory import available_memory, format_bytes, parse_bytes
from .pixels import Pixels
from .plan import MemoryBoundError, Plan, make_plan
from .reduced import CarryPlan, ReducedPlan, plan_carry, plan_reduced, run_reduced, run_transmission
from .run import Sink, Source, run

__all__ = [
    "Averages",
    "CarryPlan",
    "Checks",
    "Graphs",
    "Line",
    "Map",
    "MemoryBoundError",
    "Pixels",
    "Plan",
    "ReducedPlan",
    "Sink",
    "Source",
    "Stage",
    "available_memory",
    "format_bytes",
    "key_of",
    "lower",
    "make_plan",
    "parse_bytes",
    "plan_carry",
    "plan_reduced",
    "run",
    "run_reduced",
    "run_transmission",
]
