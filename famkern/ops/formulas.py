"""The formulas that the stages are made of, in plain PyTorch: what every kernel must compute.

Maps are channels-last, (B, rows, W, C): a band of rows is then one contiguous piece of memory. A band carries `top` and
`bottom` halo rows; a convolution pads with zeros on all four sides, so where a band was cut out of the image the
outermost row of each convolution's result is wrong, one row more per convolution, and `crop` drops these rows. At the
image's own border there is no halo and the zeros are the network's padding: intermediates outside the image are zero
before each convolution, never the bias. Source of the network: arXiv 2207.11250 (student), AAAI 2020 (FFA-Net).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# PyTorch computes any row alone: a band may have any height. Compiled kernels work in tiles of several rows.
TILE = 1
# Maps and pictures that are alive at once in the greediest stage, counting the convolution's own buffers and what the
# allocator keeps; measured.
WORKSPACE_MAPS = 20
WORKSPACE_PICTURES = 4


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution, zero padding 1: (B, rows, W, I), (O, I, 3, 3), (O,) -> (B, rows, W, O)."""
    channels_first = x.permute(0, 3, 1, 2)  # a view: what PyTorch calls channels_last
    return F.conv2d(channels_first, weight, bias, padding=1).permute(0, 2, 3, 1)


def pixel_attention(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """x * sigmoid(W2 relu(W1 x + b1) + b2), one weight per pixel; W1 (C/8, C), W2 (1, C/8)."""
    return x * torch.sigmoid(F.linear(F.relu(F.linear(x, weight1, bias1)), weight2, bias2))


def channel_attention(mean: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """sigmoid(W2 relu(W1 mean + b1) + b2), one weight per channel for each mean: (..., C) -> (..., C)."""
    return torch.sigmoid(_product(F.relu(_product(mean, weight1, bias1)), weight2, bias2))


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight x + bias, without the threads of a matrix library, which would spin on the kernels' cores for longer."""
    return (x[..., None, :] * weight).sum(-1) + bias


def interpolate(gate: Tensor, cell: int, first_row: int, rows: int, width: int) -> Tensor:
    """Weights of channels for every pixel of a band, from those at the corners of cells: linear between them.

    Args:
        gate: (B, Y, X, C). Along a side with one number it is the same everywhere; otherwise number i is at i * cell.
        cell: rows and columns between corners.
        first_row: of the picture, with which the band begins.
        rows, width: of the band.

    Returns:
        (B, rows or 1, width or 1, C).
    """
    return _between(_between(gate, 1, first_row, rows, cell), 2, 0, width, cell)


def _between(corners: Tensor, side: int, first: int, count: int, cell: int) -> Tensor:
    if corners.shape[side] == 1:
        return corners
    at = torch.arange(first, first + count, device=corners.device)
    before = at // cell
    shape = [-1 if dim == side else 1 for dim in range(4)]
    part = ((at - before * cell).to(corners.dtype) / cell).view(shape)
    return torch.lerp(corners.index_select(side, before), corners.index_select(side, before + 1), part)


def finish_block(x: Tensor, z: Tensor, gate: Tensor, *pixel_weights: Tensor) -> Tensor:
    """The end of a block, possible once the mean of its z is known: channel gate (see `interpolate`), pixel gate, skip."""
    return pixel_attention(z * gate, *pixel_weights) + x


def convolve_block(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """The beginning of a block, up to its mean: z = conv2(r), r = relu(conv1(x)) + x."""
    return conv3x3(F.relu(conv3x3(x, weight1, bias1)) + x, weight2, bias2)


def crop(x: Tensor, top: int, bottom: int) -> Tensor:
    """Drop the halo rows."""
    return x[:, top : x.shape[1] - bottom]


def row_sums(x: Tensor, cell: int) -> Tensor:
    """Sums over every `cell` columns of each row: what the next means are made of.

    (B, rows, W, C) -> (B, rows, ceil(W / cell), C) in float64. One sum a row for a cell of the width or more.
    """
    return torch.stack([part.sum(dim=2, dtype=torch.float64) for part in x.split(cell, dim=2)], dim=2)


def workspace_bytes(rows: int, width: int, channels: int, _cell: int, dtype: torch.dtype) -> int:
    """Bytes that a stage made of these formulas allocates at most for a band of `rows` rows, halo included."""
    return rows * width * (WORKSPACE_MAPS * channels + WORKSPACE_PICTURES * 3) * dtype.itemsize
