"""Two feature maps brought to one grid of positions, which their affinities need.

    map     [B, C, H, W], pool (p, q)   ->  grid of H // p rows and W // q columns
    tokens  [B, N, C], never pooled     ->  1 row of N, or, beside a map, the rows and columns of its grid

Where a pool is None, the map is averaged to the other one's grid; where both are, to the smaller height and the smaller
width of the two. A square pool is left to the operators, which pool while they read; others are done here, first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..numeric import is_whole
from .affinity_maps import maps_type

Pool = int | tuple[int, int] | None

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Features:
    """A feature map as it was given, and as what it was given, for messages."""

    name: str
    values: Tensor
    pool: Pool

    @property
    def sides(self) -> tuple[int, int] | None:
        """Rows and columns of the pooled grid, where the pool says."""
        if self.values.dim() == 3:
            return 1, self.values.shape[1]
        if self.pool is None:
            return None
        rows, columns = _pair(self.pool)
        return self.values.shape[2] // rows, self.values.shape[3] // columns


def common_grid(
    teacher: Tensor, student: Tensor, teacher_pool: Pool, student_pool: Pool
) -> tuple[tuple[Tensor, int], tuple[Tensor, int]]:
    """Both as [B, C, H, W] with a square pool each, after which they have the same rows and columns.

    Args:
        teacher, student: maps [B, C, H, W] or tokens [B, N, C].
        teacher_pool, student_pool: as `check_pool` takes them.

    Raises:
        ValueError, TypeError: if they are not maps or tokens of one batch on one device, or have no common grid.
    """
    t, s = Features("teacher", teacher, teacher_pool), Features("student", student, student_pool)
    for features in (t, s):
        check_features(features)
    if teacher.device != student.device:
        raise ValueError(f"teacher is on {teacher.device} and student on {student.device}; the same device is needed")
    if teacher.shape[0] != student.shape[0]:
        raise ValueError(
            f"teacher has {teacher.shape[0]} images and student {student.shape[0]}; equal numbers are needed"
        )
    grid = _choose(t, s)
    dtype = maps_type(teacher, student)
    return _to_grid(t, grid, dtype), _to_grid(s, grid, dtype)


def check_pool(name: str, pool: Pool) -> None:
    """Refuse with ValueError what is no pool: a whole number, a pair of them (rows, columns), or None."""
    sides = pool if isinstance(pool, tuple) and len(pool) == 2 else (pool,)
    if pool is not None and not all(is_whole(side) and side >= 1 for side in sides):  # type: ignore[operator]
        raise ValueError(f"{name} is {pool!r}; a whole number >= 1, a pair (rows, columns) of them or None is accepted")


def check_features(features: Features) -> None:
    """Refuse what is neither a map nor tokens, and a map that its pool does not fit.

    Raises:
        TypeError: for what is no floating-point tensor.
        ValueError: for another shape, and for tokens with a pool.
    """
    name, values, pool = features.name, features.values, features.pool
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is a {type(values).__name__}; a torch.Tensor [B, C, H, W] or [B, N, C] is accepted")
    if values.dtype not in DTYPES:
        raise TypeError(f"{name} is {values.dtype}; float32, float64, float16 and bfloat16 are accepted")
    if values.dim() not in (3, 4) or 0 in values.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; [B, C, H, W], or [B, N, C] for tokens, none of them 0, is accepted"
        )
    check_pool(f"{name}_pool", pool)
    if values.dim() == 3 and pool is not None and _pair(pool) != (1, 1):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, tokens [B, N, C], which are not pooled: {name}_pool=None is accepted"
        )
    if values.dim() == 4 and pool is not None and 0 in features.sides:  # type: ignore[operator]
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; H and W of at least {name}_pool = {pool} are accepted"
        )


def _choose(t: Features, s: Features) -> tuple[int, int]:
    """Rows and columns of the common grid."""
    if t.values.dim() != s.values.dim():
        tokens, image = (t, s) if t.values.dim() == 3 else (s, t)
        grid, count = image.sides or _grid_of_tokens(tokens.values.shape[1], image), tokens.values.shape[1]
        if math.prod(grid) != count:
            raise ValueError(f"{_told(image, grid)}, and {tokens.name} has {count} tokens; they must be as many")
        return grid
    known = [features for features in (t, s) if features.sides is not None]
    if not known:
        sizes = [features.values.shape[2:] for features in (t, s)]
        return min(sizes[0][0], sizes[1][0]), min(sizes[0][1], sizes[1][1])
    first, last = known[0], known[-1]
    if first.sides != last.sides:
        raise ValueError(
            f"pooled grids differ: {_told(t, t.sides)}, {_told(s, s.sides)}; they must be the same,"
            " or one pool None, to be chosen"
        )
    assert first.sides is not None
    for features in (t, s):
        if features.pool is None and any(a < b for a, b in zip(features.values.shape[2:], first.sides, strict=False)):
            raise ValueError(
                f"{features.name} has shape {tuple(features.values.shape)}, fewer rows or columns than the grid of"
                f" {first.sides[0]} x {first.sides[1]}; a larger {first.name}_pool makes a smaller one"
            )
    return first.sides


def _grid_of_tokens(count: int, image: Features) -> tuple[int, int]:
    """The grid with as many places as there are tokens, and the sides of the map in proportion."""
    H, W = image.values.shape[2:]
    rows = min(max(round(math.sqrt(count * H / W)), 1), count)
    if count % rows or rows > H or count // rows > W:
        raise ValueError(
            f"{image.name} has shape {tuple(image.values.shape)}, in proportion to which {count} tokens are no grid;"
            f" drop tokens of no place, such as a class token, or give {image.name}_pool"
        )
    return rows, count // rows


def _to_grid(features: Features, grid: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, int]:
    values = features.values
    if values.dim() == 3:
        return values.mT.unflatten(2, grid), 1  # [B, C, rows, columns]
    H, W = values.shape[2:]
    if features.pool is None and (H % grid[0] or W % grid[1]):
        return F.adaptive_avg_pool2d(values.to(dtype), grid), 1
    p, q = (H // grid[0], W // grid[1]) if features.pool is None else _pair(features.pool)
    if p == q:
        return values, p
    windows = values[..., : grid[0] * p, : grid[1] * q].unflatten(3, (grid[1], q)).unflatten(2, (grid[0], p))
    return windows.mean((3, 5), dtype=dtype), 1


def _pair(pool: int | tuple[int, int]) -> tuple[int, int]:
    rows, columns = pool if isinstance(pool, tuple) else (pool, pool)
    return int(rows), int(columns)


def _told(features: Features, grid: tuple[int, int] | None) -> str:
    assert grid is not None
    pool = "" if features.values.dim() == 3 or features.pool is None else f" / {features.pool}"
    return f"{features.name} {tuple(features.values.shape)}{pool} gives {grid[0]} x {grid[1]}"
