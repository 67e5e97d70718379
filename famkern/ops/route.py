"""Which implementation of the stages runs, and what the engine must know about it.

The compiled CPU kernels and the Triton kernels for GPUs have 16, 32 or 64 channels and compute in float32; those in CUDA
C++ have 16 channels at a stage's own scale and 16-bit maps, and come before Triton. Everything else goes to the reference
in plain PyTorch, many times slower, and the log says so, once for each reason.

FAMKERN_REFERENCE=1    the reference for everything
FAMKERN_GPU=1 or 0     see gpu.py
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import formulas, gpu, library
from .kinds import Kind

CHANNELS = (16, 32, 64)


@dataclass(frozen=True)
class Route:
    """An implementation of the stages."""

    name: str
    tile: int  # rows that it computes at a time; bands start at multiples of it
    band_pixels: int  # preferred size of a band
    # (rows with halo, width, channels, cell, arithmetic)
    workspace_bytes: Callable[[int, int, int, int, torch.dtype], int]


def _compiled_workspace(rows: int, width: int, channels: int, cell: int, _dtype: torch.dtype) -> int:
    query = library.workspace_query("famkern_stage_workspace", 5)
    return query(rows, width, channels, cell, torch.get_num_threads())


def _triton_workspace(rows: int, width: int, channels: int, cell: int, _dtype: torch.dtype) -> int:
    from ..kernels import stages

    pictures = rows * width * formulas.WORKSPACE_PICTURES * 3 * 4
    return pictures + stages.workspace_bytes(rows, width, channels, cell, torch.device("cuda"))


# PyTorch computes any row alone, and a few megabytes a map stay in the cache from one of its operators to the next.
REFERENCE = Route("reference", formulas.TILE, 1 << 16, formulas.workspace_bytes)
# Winograd's F(4x4, 3x3). A band's edges are computed twice, so bands are as large as their place in memory allows.
COMPILED = Route("compiled", 4, 1 << 18, _compiled_workspace)
# Rows one at a time. A launch fills the GPU from the first step to the last, so bands are for want of memory only.
GPU = Route("gpu", 1, 1 << 24, _triton_workspace)


def choose(
    device: torch.device, channels: int | Collection[int], dtype: torch.dtype, kind: Kind | None = None
) -> Route:
    """The route of maps with so many channels, computed in `dtype`; of one kind of stage, or of what training needs."""
    channels = {channels} if isinstance(channels, int) else channels
    if library.reference_is_asked():
        _announce("FAMKERN_REFERENCE=1 asks for it")
        return REFERENCE
    if device.type == "cuda":
        return _choose_on_gpu(device, channels, dtype, kind)
    if device.type != "cpu":
        return REFERENCE
    if library.why_not_compiled() is not None:
        library.announce_missing_kernels()
        return REFERENCE
    if not torch.compiler.is_compiling():
        library.instruction_set()  # an error here, not in the middle of a kernel, if the environment names none
    return COMPILED if _suits("compiled", channels, dtype, kind) else REFERENCE


def join(routes: Collection[Route]) -> Route:
    """What the engine must know about a line whose stages run on these routes."""
    if len(routes) == 1:
        (route,) = routes
        return route
    return Route(
        " and ".join(sorted(route.name for route in routes)),
        max(route.tile for route in routes),
        max(route.band_pixels for route in routes),
        lambda *band: max(route.workspace_bytes(*band) for route in routes),
    )


def _choose_on_gpu(device: torch.device, channels: Collection[int], dtype: torch.dtype, kind: Kind | None) -> Route:
    reason = gpu.why_not(device)
    if reason is not None:
        _announce(reason)
        return REFERENCE
    return GPU if _suits("Triton", channels, dtype, kind) else REFERENCE


def _suits(kernels: str, channels: Collection[int], dtype: torch.dtype, kind: Kind | None) -> bool:
    if kind is not None and kernels.lower() not in kind.kernels:
        _announce(f"the {kernels} kernels do not have the stage {kind.name}")
        return False
    if dtype != torch.float32:
        _announce(f"the {kernels} kernels compute in float32, not {dtype}")
        return False
    if others := sorted(set(channels) - set(CHANNELS)):
        _announce(f"the {kernels} kernels have 16, 32 or 64 channels, not {others[0]}")
        return False
    return True


def describe_gpu(device: torch.device) -> str:
    """Which kernels a network's stages run on, on this GPU, and why: for people to read."""
    reason = "FAMKERN_REFERENCE=1 asks for it" if library.reference_is_asked() else gpu.why_not(device)
    if reason is not None:
        return f"PyTorch's operators: {reason}"
    without_cuda = library.why_not_cuda()
    if without_cuda is not None:
        return f"Triton: {without_cuda}"
    return "CUDA C++ for 16 channels and 16-bit maps, Triton for others"


def is_in_cuda(kind: Kind, tensors: Sequence[Tensor]) -> bool:
    """Whether a stage with these maps runs in CUDA C++ on a GPU, since intermediates stay in shared memory; else Triton.

    Args:
        kind: of the stage.
        tensors: its maps and outputs, in the order of its contract.
    """
    maps = [tensor for tensor in tensors if tensor.shape[3] != 3]
    own = maps[1:] if kind.maps[0].scale != "same" else maps  # a map of another scale comes first, and has any channels
    fits = all(m.shape[3] == 16 for m in own) and all(m.dtype in (torch.float16, torch.bfloat16) for m in maps)
    return fits and "cuda" in kind.kernels and library.why_not_cuda() is None


def _announce(reason: str) -> None:
    library.announce("the network runs on the reference in plain PyTorch", reason)
