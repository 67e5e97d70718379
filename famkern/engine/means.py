"""Means of maps over the whole picture, or over windows around the corners of a grid of cells.

Channel attention in training sees the means of a crop. Over a whole picture of another size they are others; means over
windows of the size of a crop are not (test-time local converter, "Improving image restoration by revisiting global
information aggregation", ECCV 2022). Here a window is WINDOW_CELLS cells each way around a corner of the grid, moved
inside the picture at its edges, and a channel's weight is linear between corners, so that nothing steps at one:

    +----+----+----+----+----+--      +  a corner: has means of its own, of the 4 x 4 cells around it
    |    |    |    |    |    |        cells are `cell` rows and columns; the last ones are cut by the picture's edge
    +----+----+----+----+----+--      one cell along a side: one mean, the same everywhere

The sums of a cell are added row by row in the order of the rows, whatever the bands: same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WINDOW_CELLS = 4


class Averages:
    """Exponential averages of the means over the frames of a film, so that channel attention changes slowly.

    Args:
        before: the averages up to the frame before, by the name of the map; none at the first frame.
        weight: 0..1, of this frame in the averages. The first frame's means are its averages.
    """

    def __init__(self, before: Mapping[str, Tensor], weight: float) -> None:
        self.after: dict[str, Tensor] = {}
        self._before, self._weight = before, weight

    def add(self, name: str, mean: Tensor) -> Tensor:
        """The average with this frame's mean of a map, (1, Y, X, C) float64; also kept in `after`."""
        before = self._before.get(name)
        if before is None:
            self.after[name] = mean
        elif before.shape != mean.shape:
            raise ValueError("the averages are those of a film of another size; begin with none")
        else:  # difference, product and sum one by one: the same bits however PyTorch splits them
            before = before.to(mean.device)
            self.after[name] = before + (mean - before) * self._weight
        return self.after[name]


class Sums:
    """Sums of one map over its cells, as its bands come in, in any order.

    Args:
        height, width: of the map.
        cell: rows and columns of a cell.
        channels: of the map.
        device: of the sums.
    """

    def __init__(self, height: int, width: int, cell: int, channels: int, device: torch.device) -> None:
        self.height, self.width, self.cell = height, width, cell
        self.columns = -(-width // cell)
        shape = (-(-height // cell), self.columns, channels)
        self.cells = torch.empty(shape, dtype=torch.float64, device=device)
        # Rows of cells that bands have begun and not finished: the sums of their rows, and how many are missing.
        self._open: dict[int, Tensor] = {}
        self._missing: dict[int, int] = {}

    def rows(self, count: int) -> Tensor:
        """For the sums of so many rows over the cells, to be written: (1, rows, columns, C) float64."""
        return self.cells.new_empty(1, count, *self.cells.shape[1:])

    def add(self, start: int, rows: Tensor) -> None:
        """The sums of rows start, start + 1, ... over the cells: (1, rows, columns, C) float64."""
        stop = start + rows.shape[1]
        for index in range(start // self.cell, -(-stop // self.cell)):
            first, end = index * self.cell, min((index + 1) * self.cell, self.height)
            part = rows[0, max(first, start) - start : min(end, stop) - start]
            if part.shape[0] < end - first:
                whole = self._open.setdefault(index, rows.new_empty(end - first, *rows.shape[2:]))
                whole[max(first, start) - first : min(end, stop) - first] = part
                self._missing[index] = self._missing.get(index, end - first) - part.shape[0]
                if self._missing[index]:
                    continue
                part = self._open.pop(index)
            self.cells[index] = _sum_rows(part)

    def means(self) -> Tensor:
        """(1, Y, X, C) at the corners: Y and X are 1 along a side of one cell, else one more than its cells."""
        if self.cells.shape[:2] == (1, 1):  # the whole picture; a few microseconds count, twenty times in a small one
            return self.cells[None] / (self.height * self.width)
        sums, rows = _windows(self.cells, 0, self.height, self.cell)
        sums, columns = _windows(sums, 1, self.width, self.cell)
        return (sums / (rows[:, None] * columns)[..., None])[None]


def open_bytes(height: int, width: int, cell: int, channels: int, band: int) -> int:
    """Bytes of the sums of one map at most while it is written, with bands of so many rows."""
    cells, columns = -(-height // cell), -(-width // cell)
    rows = band + min(2 * cell, height) + cells  # a band's, and those of two open rows of cells; cells
    return rows * columns * channels * 8 + means_bytes(height, width, cell, channels)


def means_bytes(height: int, width: int, cell: int, channels: int) -> int:
    """Bytes of the means of one map at most."""
    return (-(-height // cell) + 1) * (-(-width // cell) + 1) * channels * 8


def _windows(sums: Tensor, side: int, length: int, cell: int) -> tuple[Tensor, Tensor]:
    """Sums over the windows around each corner along one side, and how many pixels of it each window has."""
    count = sums.shape[side]
    size = min(WINDOW_CELLS, count)
    corners = torch.arange(count + 1 if count > 1 else 1, device=sums.device)
    first = (corners - WINDOW_CELLS // 2).clamp(0, count - size)
    total = sums.index_select(side, first)
    for i in range(1, size):
        total = total + sums.index_select(side, first + i)
    pixels = ((first + size) * cell).clamp(max=length) - first * cell
    return total, pixels.double()


def _sum_rows(rows: Tensor) -> Tensor:
    """(rows, columns, C) -> (columns, C), always in the same order, whatever the number of threads."""
    if rows.device.type == "cpu":
        return torch.from_numpy(rows.numpy().sum(axis=0))  # NumPy uses one thread; PyTorch splits by their number
    return rows.sum(dim=0)
