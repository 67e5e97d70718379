"""famkern: image dehazing with custom kernels, for pictures of any size.

    clear = famkern.dehaze(hazy)

See README.md, and the docstrings of the names below.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import models
    from .dehazer import Dehazer, dehaze
    from .distillation import HookedAffinityLoss
    from .engine import MemoryBoundError
    from .ops.affinity import FeatureAffinityLoss, affinity_matrix, feature_affinity_loss

__all__ = [
    "Dehazer",
    "FeatureAffinityLoss",
    "HookedAffinityLoss",
    "MemoryBoundError",
    "affinity_matrix",
    "dehaze",
    "feature_affinity_loss",
    "models",
]
__version__ = "0.1.0"

# Module that each name comes from. It is imported when the name is first used: PyTorch alone takes seconds to import, and
# `famkern --help` needs none of it.
_MODULES = {
    "Dehazer": "dehazer",
    "FeatureAffinityLoss": "ops.affinity",
    "HookedAffinityLoss": "distillation",
    "MemoryBoundError": "engine",
    "affinity_matrix": "ops.affinity",
    "dehaze": "dehazer",
    "feature_affinity_loss": "ops.affinity",
}


def __getattr__(name: str) -> object:
    if name in ("dehazer", "distillation", "engine", "export", "models", "ops", "video"):
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
