"""famkern: image dehazing with custom kernels, for pictures of any size.

    clear = famkern.dehaze(hazy)

See README.md, and the docstrings of the names below.
"""

from . import models
from .dehazer import Dehazer, dehaze
from .engine import MemoryBoundError

__all__ = ["Dehazer", "MemoryBoundError", "dehaze", "models"]
__version__ = "0.1.0"
