"""Means over windows around each pixel instead of the whole picture, for channel attention on pictures larger than the
crops that a network was trained on.

Test-time local converter: Chu et al., "Improving image restoration by revisiting global information aggregation", ECCV
2022. A window is WINDOW_CELLS x WINDOW_CELLS cells around a corner of a grid, moved inside the picture at its edges; a
channel's weight is computed at the corners and linear between them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Means of a map (B, C, H, W) over windows around each corner, (B, C, Y, X); over all of it, (B, C, 1, 1), if one
    window holds it."""
    if _is_whole(window, *x.shape[2:]):
        return x.mean(dim=(2, 3), keepdim=True)
    cell = window // WINDOW_CELLS  # type: ignore[operator]
    return _along(_along(x.transpose(-2, -1), cell).transpose(-2, -1), cell)


def interpolate(weights: Tensor, window: int | None, height: int, width: int) -> Tensor:
    """Weights at the corners, (B, C, Y, X), at every pixel, (B, C, height, width): linear between corners. If one window
    holds the picture there is one weight, (B, C, 1, 1), for all pixels."""
    if _is_whole(window, height, width):
        return weights
    cell = window // WINDOW_CELLS  # type: ignore[operator]
    return _between(_between(weights, width, cell).transpose(-2, -1), height, cell).transpose(-2, -1)


def _is_whole(window: int | None, height: int, width: int) -> bool:
    """Whether there is one window. An exported program has pictures of all sizes to serve: there windows are computed where
    they could be saved, with the same result but for rounding."""
    return window is None or (not torch.compiler.is_exporting() and window >= max(height, width))


# As products with matrices, whose shapes are all that depends on the picture's size: so that export needs no condition.


def _along(x: Tensor, cell: int) -> Tensor:
    """Means over the windows along the rows of (..., length), (..., corners)."""
    length = x.shape[-1]
    cells = (length + cell - 1) // cell
    corners = torch.arange(cells + 1, device=x.device)
    first = corners.clamp(max=cells - WINDOW_CELLS // 2).sub(WINDOW_CELLS // 2).clamp(min=0) * cell
    last = (first + WINDOW_CELLS * cell).clamp(max=length)
    pixels = torch.arange(length, device=x.device)
    inside = (pixels >= first[:, None]) & (pixels < last[:, None])  # (corners, length)
    return F.linear(x, inside.to(x.dtype)) / (last - first).to(x.dtype)


def _between(corners: Tensor, length: int, cell: int) -> Tensor:
    """Values at (..., corners) interpolated to (..., length)."""
    pixels = torch.arange(length, device=corners.device)
    places = pixels[:, None].to(torch.float32) / cell  # in cells; the default dtype of the process may have 16 bits
    away = places - torch.arange(corners.shape[-1], device=corners.device)
    return F.linear(corners, (1 - away.abs()).clamp(min=0).to(corners.dtype))
