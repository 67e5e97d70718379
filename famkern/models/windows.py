"""Means over windows around each pixel instead of the whole picture, for channel attention on pictures larger than the
crops that a network was trained on.

Test-time local converter: Chu et al., "Improving image restoration by revisiting global information aggregation", ECCV
2022. A window is WINDOW_CELLS x WINDOW_CELLS cells around a corner of a grid, moved inside the picture at its edges; a
channel's weight is computed at the corners and linear between them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..numeric import is_whole

WINDOW_CELLS = 4
LEAST_CELL = 4  # pixels: the tiles of compiled kernels


def check(window: int | None, levels: int = 1) -> int | None:
    """A window's side in pixels, or None.

    Args:
        window: of the picture.
        levels: of the network, on the last of which a window has 1 / 2^(levels - 1) of that side.

    Raises:
        ValueError: if it is not a multiple of 16 on every level.
    """
    least = WINDOW_CELLS * LEAST_CELL * 2 ** (levels - 1)
    if window is not None and (not is_whole(window) or window < 1 or window % least):
        raise ValueError(f"window is a multiple of {least} pixels, or None for the whole picture, not {window!r}")
    return None if window is None else int(window)


def keep_in_state_dict(network: nn.Module) -> None:
    """Have the network's `window` travel with its state dict, as an integer tensor of that name.

    It is there only where the network has one, and need not be there to be loaded: the papers' checkpoints have none, and
    a network that loads one without keeps its own.
    """
    network.register_state_dict_post_hook(_save)
    network.register_load_state_dict_pre_hook(_load)


def _save(network: Any, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    if network.window is not None:
        state[f"{prefix}window"] = torch.tensor(network.window, dtype=torch.int64, device="cpu")


def _load(network: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    window = state.pop(f"{prefix}window", None)
    if window is not None:
        network.window = int(window)


def means(x: Tensor, window: int | None) -> Tensor:
    """(B, C, H, W) -> (B, C, Y, X): over windows around each corner; (B, C, 1, 1): over all, if one window holds it."""
    cell = _cell(window, *x.shape[2:])
    return x.mean(dim=(2, 3), keepdim=True) if cell is None else _along(_along(x, 2, cell), 3, cell)


def spread(weights: Tensor, window: int | None, height: int, width: int) -> Tensor:
    """(B, C, Y, X) at the corners -> (B, C, height or 1, width or 1), linear between them."""
    cell = _cell(window, height, width)
    return weights if cell is None else _between(_between(weights, 2, height, cell), 3, width, cell)


def _cell(window: int | None, height: int, width: int) -> int | None:
    return None if window is None or window >= max(height, width) else window // WINDOW_CELLS


def _along(x: Tensor, side: int, cell: int) -> Tensor:
    """Means over the windows along one side."""
    length = x.shape[side]
    count = -(-length // cell)
    size = min(WINDOW_CELLS, count)
    filled = F.pad(x, (0, count * cell - length) if side == 3 else (0, 0, 0, count * cell - length))
    sums = filled.unflatten(side, (count, cell)).sum(side + 1)
    corners = torch.arange(count + 1 if count > 1 else 1, device=x.device)
    first = (corners - WINDOW_CELLS // 2).clamp(0, count - size)
    pixels = ((first + size) * cell).clamp(max=length) - first * cell
    total = sum(sums.index_select(side, first + i) for i in range(size))
    return total / pixels.to(x.dtype).view([-1 if dim == side else 1 for dim in range(4)])


def _between(corners: Tensor, side: int, length: int, cell: int) -> Tensor:
    if corners.shape[side] == 1:
        return corners
    at = torch.arange(length, device=corners.device)
    before = at // cell
    part = ((at - before * cell).to(corners.dtype) / cell).view([-1 if dim == side else 1 for dim in range(4)])
    return torch.lerp(corners.index_select(side, before), corners.index_select(side, before + 1), part)
