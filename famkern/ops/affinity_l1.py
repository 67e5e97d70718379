"""The sum of absolute differences between affinities, a tile at a time.

    maps = [D; E] = [S' - T'; S' + T']                                       # [B, 2 C, N], from affinity_maps
    a_ij = A(S')_ij - A(T')_ij = (d_i . e_j + e_i . d_j) / 2
    result = sum over i and j of |a_ij|                                      # [B] float64

The absolute value leaves no identity to shorten the sum with, so all N^2 entries are computed, in tiles that are used
and forgotten: O(N C) memory. The gradient with respect to maps is [E; D] sign(a), from recomputed tiles.

Source: L1 between (cosine-normalised) affinities: FAKD, "Feature-Affinity Based Knowledge Distillation for Efficient
Image Super-Resolution", ICIP 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .affinity_maps import on_gpu, refuse_second_derivative, triton_kernels
from .library import LIBRARY, refuse_forward_mode

LIBRARY.define("affinity_l1(Tensor maps) -> Tensor")
LIBRARY.define("affinity_l1_backward(Tensor maps, Tensor scale) -> Tensor")


def affinity_l1(maps: Tensor) -> Tensor:
    """Sum of |A(S') - A(T')| over all pairs of positions.

    Args:
        maps: [B, 2 C, N] float32 or float64, the first output of `affinity_maps`. It is the precision of the products;
            sums over tiles are float64.

    Returns:
        [B] float64. Differentiable once.
    """
    refuse_forward_mode(maps)
    return torch.ops.famkern.affinity_l1(maps)


def _tiles(maps: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of the difference of affinities, about four million entries at a time, with X maps."""
    B, K, N = maps.shape
    swapped = maps.roll(K // 2, 1)  # [E; D]
    rows = max(1, (1 << 22) // max(1, B * N))
    for first in range(0, N, rows):
        at = slice(first, min(first + rows, N))
        yield at, swapped, swapped[:, :, at].mT @ maps / 2  # [B, rows, N]


def _l1(maps: Tensor) -> Tensor:
    total = maps.new_zeros(maps.shape[0], dtype=torch.float64)
    with torch.autocast(maps.device.type, enabled=False):
        for _, _, entries in _tiles(maps):
            total += entries.abs().sum(-1, dtype=torch.float64).sum(-1)
    return total


def _l1_backward(maps: Tensor, scale: Tensor) -> Tensor:
    gradient = torch.empty_like(maps)
    with torch.autocast(maps.device.type, enabled=False):
        for at, swapped, entries in _tiles(maps):
            gradient[:, :, at] = swapped @ entries.sign().mT * scale[:, None, None].to(maps.dtype)
    return gradient


LIBRARY.impl("affinity_l1", _l1, "CompositeExplicitAutograd")
LIBRARY.impl("affinity_l1_backward", _l1_backward, "CompositeExplicitAutograd")
LIBRARY.impl("affinity_l1", on_gpu(_l1, lambda *given: triton_kernels().affinity_l1(*given)), "CUDA")
LIBRARY.impl(
    "affinity_l1_backward",
    on_gpu(_l1_backward, lambda *given: triton_kernels().affinity_l1_backward(*given)),
    "CUDA",
)


@torch.library.register_fake("famkern::affinity_l1", lib=LIBRARY)
def _(maps: Tensor) -> Tensor:
    return maps.new_empty(maps.shape[0], dtype=torch.float64)


@torch.library.register_fake("famkern::affinity_l1_backward", lib=LIBRARY)
def _(maps: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(maps)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return torch.ops.famkern.affinity_l1_backward(ctx.saved_tensors[0], grad)


torch.library.register_autograd("famkern::affinity_l1", _backward, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("famkern::affinity_l1_backward", refuse_second_derivative, lib=LIBRARY)
