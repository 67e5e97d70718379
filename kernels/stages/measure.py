"""The time of a block stage with the tile that is in use, for the choice of tiles."""

from __future__ import annotations

import math

import torch
from triton import OutOfResources
from triton.testing import do_bench

from .calls import block_stage as run
from .launch import _on

ROWS, COLUMNS = 1080, 1920


def block_stage(channels: int, dtype: torch.dtype, device: torch.device) -> float:
    """Milliseconds on a picture of 1080 x 1920; infinite for a tile that the device has no room for."""
    C = channels
    x, z, out_x, out_z = (torch.zeros(1, ROWS, COLUMNS, C, dtype=dtype, device=device) for _ in range(4))

    def weights(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=device)

    attention = weights(C // 8, C), weights(C // 8), weights(1, C // 8), weights(1)
    convolutions = weights(C, C, 3, 3), weights(C), weights(C, C, 3, 3), weights(C)
    gate, sums = weights(1, 1, 1, C), torch.zeros(1, ROWS, 1, C, dtype=torch.float64, device=device)
    try:
        with _on(x):
            time = do_bench(
                lambda: run(x, z, gate, *attention, *convolutions, out_x, out_z, sums, 0, 0, COLUMNS, 0),
                return_mode="median",
            )
    except OutOfResources:
        return math.inf
    return float(time)
