"""famkern: image dehazing with custom kernels, for pictures of any size.

    clear = famkern.dehaze(hazy)

See README.md, and the docstrings of the names below.
"""

from . import models
from .dehazer import Dehazer, dehaze
from .engine import MemoryBoundError
from .ops.affinity import FeatureAffinityLoss, affinity_matrix, feature_affinity_loss

__all__ = [
    "Dehazer",
    "FeatureAffinityLoss",
    "MemoryBoundError",
    "affinity_matrix",
    "dehaze",
    "feature_affinity_loss",
    "models",
]
__version__ = "0.1.0"
