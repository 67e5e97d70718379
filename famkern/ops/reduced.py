"""What the three operators of reduced scale have in common: their constants, numbers of pictures, and which kernel runs.

With scale k the network sees the picture reduced by k (reduce_picture.py). What it makes of that is carried over to the
picture by an affine map of its colours, which is fitted around each reduced pixel (fit_affine.py) and applied to the
pixels of the picture (apply_affine.py). After the guided filter: He, Sun, Tang, "Guided image filtering", TPAMI 2013; He,
Sun, "Fast guided filter", arXiv 1505.00996.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import library

MOST_SCALE = 8
RADIUS = 8  # of the windows of a fit, in reduced pixels
EPSILON = 1e-4  # added to the variance of a window, of values in [0, 1]
HALO = 2 * RADIUS  # reduced rows that a fit needs above and below its own

FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535}
DEPTHS = (*FULL_SCALE, torch.float32, torch.float64)  # of pictures that the operators read and write

# Bytes of a band's temporary tensors in plain PyTorch, for each number of the band: measured.
_REFERENCE_TENSORS = 24


def to_unit(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a picture as floating point in [0, 1]."""
    return rows.to(dtype) / FULL_SCALE.get(rows.dtype, 1)


def from_unit(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The way back; integers are rounded half to even."""
    return (values * FULL_SCALE[dtype]).round().to(dtype) if dtype in FULL_SCALE else values.to(dtype)


def operator(name: str, reference: Callable[..., None], device: torch.device) -> Callable[..., None]:
    """The implementation that runs on this device: compiled on the CPU, the reference elsewhere."""
    if library.reference_is_asked():
        return reference
    if device.type == "cpu":
        if library.why_not_compiled() is None:
            library.instruction_set()  # an error here if the environment names none
        else:
            library.announce_missing_kernels()
    found: Callable[..., None] = getattr(torch.ops.famkern, name)
    return found


def workspace_bytes(rows: int, width: int, scale: int, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that the three operators allocate at most for a band of so many reduced rows.

    Args:
        rows: of the reduced picture.
        width: of the picture.
        scale: of the reduction.
        device: where they run.
        dtype: of the arithmetic.
    """
    if device.type == "cpu" and library.why_not_compiled() is None and not library.reference_is_asked():
        return library.workspace_query("famkern_scale_workspace", 3)(width, scale, torch.get_num_threads())
    reduced, full = (rows + 2 * HALO) * -(-width // scale) * 8, rows * scale * width * dtype.itemsize
    return _REFERENCE_TENSORS * 3 * max(reduced, full)
