"""How the kernels of the stages are launched: checks, and memory beside the maps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from .blocks import _block, _sum
from .pieces import MARGIN, ROWS
from .tiles import TILES, is_tuned, space, tile_for

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CHANNELS = (16, 32, 64)
PICTURE = 4  # channels of a normalised picture in its ring: three and a zero
RGB = 16  # outputs of the last convolution: three, and zeros up to what a product has at least
SUM_BLOCKS = 32  # blocks of columns that `_sum` adds at a time, ...
CELL_BLOCKS = 4  # ... and of one of several cells, which meets fewer
SIZE = 2**31 - 1  # the kernels count columns, rows and cells in 32 bits
LEAST_RUN = 32  # rows; shorter runs would recompute more than a sixth of their own


def _on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The tensor's GPU as the current one; nothing to do under the interpreter, where tensors are on the CPU."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _multiprocessors(device: torch.device) -> int:
    """Of this device; one under the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _expect(shape: tuple[int, ...], dtype: torch.dtype, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
            raise RuntimeError(
                f"contiguous {dtype} of the shape {shape} in the operator's contract expected, "
                f"not {tensor.dtype} of {tuple(tensor.shape)} with strides {tensor.stride()}"
            )


class _Launch:
    """A stage's launch: its sizes, and its memory beside the maps.

    Args:
        kernel: of the stage.
        result: (B, rows, width, any), one of them.
        maps: read, (B, top + rows + bottom, width, C).
        outputs: maps that are written, (B, rows, width, C).
        sums: (B, rows, cells, C).
        place: top, bottom, cell, first_row, as the operator has them.
        gate: of channels, (B, Y, X, gates C), or None.
        reach: rows and columns around a pixel that it depends on.
        rings: sum of their channels.

    Raises:
        RuntimeError: for what the kernels do not have, and for tensors that do not fit each other.
    """

    def __init__(
        self,
        kernel: Any,
        result: Tensor,
        maps: Sequence[Tensor],
        outputs: Sequence[Tensor],
        sums: Sequence[Tensor],
        place: Sequence[int],
        gate: Tensor | None = None,
        *,
        reach: int,
        rings: int,
    ) -> None:
        self.kernel = kernel
        self.B, self.rows, self.width, _ = result.shape
        self.top, self.bottom, cell, first_row = place
        self.C, self.dtype = (*maps, *outputs)[0].shape[3], (*maps, *outputs)[0].dtype
        if self.C not in CHANNELS or self.dtype not in DTYPES:
            raise RuntimeError(
                f"maps of 16, 32 or 64 channels in float16, bfloat16 or float32 expected, not {self.C} in {self.dtype}"
            )
        _expect(self.read_shape(self.C), self.dtype, *maps)
        _expect((self.B, self.rows, self.width, self.C), self.dtype, *outputs)
        if cell < self.width and (cell < 4 or cell % 4):
            raise RuntimeError(f"a cell of a multiple of 4 columns, or of all {self.width}, expected, not of {cell}")
        self.cell = max(1, min(cell, SIZE))
        self.cells = triton.cdiv(self.width, self.cell)
        _expect((self.B, self.rows, self.cells, self.C), torch.float64, *sums)
        self.tile = tile_for(self.C, self.dtype, result.device)
        self.own = self.tile.lanes - 2 * reach
        self.blocks = triton.cdiv(self.width, self.own)
        self.parts = parts_of(self.own, self.width, self.cell)
        corners = self._corners(gate, first_row)
        self.windows = self.cells > 1 or corners != (1, 1)
        self.window = (*corners, self.cell, first_row, self.parts)
        if self.windows:
            self.tile = self.tile.over_windows()
        programs = self.tile.block_programs if kernel is _block else self.tile.programs
        runs = max(1, _multiprocessors(result.device) * programs // (self.blocks * self.B))  # all run at the same time
        self.run = max(LEAST_RUN, triton.cdiv(self.rows, runs))
        self.grid = (self.blocks * triton.cdiv(self.rows, self.run), self.B)
        size = math.prod(self.grid) * ROWS.value * (self.tile.lanes + MARGIN.value) * rings
        self.scratch = result.new_empty(size, dtype=self.dtype)
        self.sums = sums
        # Of each block of columns, float32.
        shape = (self.B, self.rows, self.blocks, self.parts, self.C)
        self.partials = [result.new_empty(shape, dtype=torch.float32) for _ in sums]

    def _corners(self, gate: Tensor | None, first_row: int) -> tuple[int, int]:
        """Rows and columns of the gate, enough of them for all that is read."""
        if gate is None:
            return 1, 1
        rows, columns = gate.shape[1:3]
        below = (first_row + self.read_shape(self.C)[1] - 1) // self.cell + 1
        if first_row < 0 or (rows != 1 and rows <= below) or columns not in (1, self.cells + 1):
            raise RuntimeError(
                f"a gate for all, or one for every corner of cells, expected: more than {below} rows, or 1, and "
                f"{self.cells + 1} columns, or 1, not {rows} and {columns} from row {first_row} on"
            )
        return rows, columns

    def read_shape(self, channels: int) -> tuple[int, int, int, int]:
        """Of what is read, halo included."""
        return self.B, self.top + self.rows + self.bottom, self.width, channels

    def convolution(
        self, weight: Tensor, bias: Tensor, *, inputs: int = 0, outputs: int = 0, side: int = 3
    ) -> tuple[Tensor, Tensor]:
        """Weights (C, C, side, side) tap by tap, [side, side, C, C] in the maps' dtype, and bias (C,).

        With other numbers of `inputs` or `outputs` than C the weights may have fewer, and the rest is zero.
        """
        shape = (side, side, inputs or self.C, outputs or self.C)
        o = weight.shape[0] if outputs else self.C
        i = weight.shape[1] if inputs else self.C
        _expect((o, i, side, side), torch.float32, weight)
        _expect((o,), torch.float32, bias)
        packed = (weight.new_zeros if inputs or outputs else weight.new_empty)(shape, dtype=self.dtype)
        packed[:, :, :i, :o].copy_(weight.permute(2, 3, 1, 0))
        return packed, torch.nn.functional.pad(bias, (0, shape[3] - o)) if outputs else bias

    def other(self, other: Tensor, shapes: Sequence[tuple[int, int]]) -> int:
        """Channels of a map at another scale, which has one of these rows and columns."""
        rows, width, channels = other.shape[1:]
        if (rows, width) not in shapes or channels not in CHANNELS:
            raise RuntimeError(
                f"a map at another scale of 16, 32 or 64 channels and (rows, columns) of {shapes} expected, not "
                f"{tuple(other.shape)}"
            )
        _expect((self.B, rows, width, channels), self.dtype, other)
        return channels

    def attention(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """Of pixels: (C/8, C), (C/8,), (1, C/8), (1,)."""
        hidden = self.C // 8
        for weight, shape in zip(weights, ((hidden, self.C), (hidden,), (1, hidden), (1,)), strict=True):
            _expect(shape, torch.float32, weight)
        return weights

    def gate(self, gate: Tensor, groups: int = 1) -> Tensor:
        """Of channels: (B, Y, X, groups C)."""
        _expect((self.B, *self.window[:2], groups * self.C), torch.float32, gate)
        return gate

    def __call__(self, *arguments: Any, other: Sequence[int] = (), **constants: int) -> None:
        """Run the kernel, and add up the sums of each row over its blocks; `other`: rows and columns of a map."""
        sizes = (self.rows, self.top, self.bottom, self.width, self.blocks, self.run, *self.window, *other)
        constants |= {"C": self.C, "M": self.tile.lanes, "TAPS": self.tile.taps, "WINDOWS": self.windows}
        grid, columns = (self.B * self.rows, self.cells), (self.blocks, self.parts, self.cell, self.own, self.width)
        at_once = SUM_BLOCKS if self.cells == 1 else CELL_BLOCKS
        with _on(self.scratch):
            self.kernel[self.grid](*arguments, self.scratch, *sizes, **constants, **self.tile.options)
            for partials, sums in zip(self.partials, self.sums, strict=True):
                _sum[grid](partials, sums, *columns, C=self.C, BLOCKS=at_once, num_warps=1)


def parts_of(own: int, width: int, cell: int) -> int:
    """Cells that `own` columns beside each other meet at most."""
    return 1 if cell >= width else (own + cell - 2) // cell + 1


def workspace_bytes(rows: int, width: int, channels: int, cell: int, device: torch.device) -> int:
    """Bytes that a stage allocates at most for a band of `rows` rows, halo included, in the costliest dtype."""
    most = 0
    for (C, itemsize), default in TILES.items():
        for tile in space(C, itemsize) if is_tuned() else [default]:
            if channels == C:
                blocks = triton.cdiv(width, tile.lanes - 2 * 3)
                at_once = _multiprocessors(device) * max(tile.programs, tile.block_programs)
                programs = max(blocks, min(at_once, blocks * triton.cdiv(rows, LEAST_RUN)))
                rings = programs * ROWS.value * (tile.lanes + MARGIN.value) * 3 * C * itemsize  # of a group stage
                sums = 2 * rows * blocks * parts_of(tile.lanes - 2, width, cell) * C * 4
                most = max(most, rings + sums)
    return most + 4 * 9 * channels**2 * 4  # weights
