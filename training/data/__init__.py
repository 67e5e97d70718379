"""What training draws from: pairs of hazy and clear crops, and sharp crops for the teacher.

    sources = [Solved("sots_indoor/train", weight=2.0), Photos("photographs")]
    sampler = StepSampler([Phase(until=1.0, size=128, batch=16)], steps=10_000)
    loader = DataLoader(HazePairs(sources, seed=1), batch_sampler=sampler, num_workers=2)
    for batch in loader: batch["hazy"], batch["clear"]  # (B, 3, 128, 128) in [0, 1]

A sample depends on the seed, the step and its number in the step alone, so that a run that is resumed, or has more
workers or devices, sees what an uninterrupted run on one device would.
"""

from .borders import border
from .checking import Alone, Checked, File, Sizes, check
from .datasets import HazePairs, SharpCrops
from .haze import Haze, hazy
from .layouts import DepthPair, Pair, find_depths, find_pairs, find_photos, pictures
from .sampling import Draw, Phase, StepSampler
from .solving import solve_depth
from .sources import Depths, Pairs, PairScene, Photos, Solved, Source

__all__ = [
    "Alone",
    "Checked",
    "DepthPair",
    "Depths",
    "Draw",
    "File",
    "Haze",
    "HazePairs",
    "Pair",
    "PairScene",
    "Pairs",
    "Phase",
    "Photos",
    "SharpCrops",
    "Sizes",
    "Solved",
    "Source",
    "StepSampler",
    "border",
    "check",
    "find_depths",
    "find_pairs",
    "find_photos",
    "hazy",
    "pictures",
    "solve_depth",
]
