"""The time of a block stage with the tile that is in use, for the choice of tiles."""

from __future__ import annotations

import math

import torch
from triton import OutOfResources
from triton.testing import do_bench

from .calls import stage
from .launch import _on

ROWS, COLUMNS = 1080, 1920


def block_stage(channels: int, dtype: torch.dtype, device: torch.device) -> float:
    """Milliseconds on a picture of 1080 x 1920; infinite for a tile that the device has no room for."""
    C = channels
    maps, outputs = ([torch.zeros(1, ROWS, COLUMNS, C, dtype=dtype, device=device) for _ in "xz"] for _ in range(2))

    def weights(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=device)

    attention = weights(C // 8, C), weights(C // 8), weights(1, C // 8), weights(1)
    convolutions = weights(C, C, 3, 3), weights(C), weights(C, C, 3, 3), weights(C)
    gate, sums = weights(1, 1, 1, C), torch.zeros(1, ROWS, 1, C, dtype=torch.float64, device=device)
    place = (0, 0, COLUMNS, 0)
    try:
        with _on(sums):
            time = do_bench(
                lambda: stage("block", maps, gate, (*attention, *convolutions), outputs, [sums], place),
                return_mode="median",
            )
    except OutOfResources:
        return math.inf
    return float(time)
