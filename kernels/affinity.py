"""Triton kernels of the affinity operators: the same passes as the CPU's, for GPUs.

    _pool    student, teacher [C, H, W]  ->  maps = [S' - T'; S' + T'] [K, N]      one pass over each feature map
    _gram    maps [K, N]                 ->  maps maps^T [K, K]                    in float64, a partial sum a chunk
    _spread  coefficients [C, K], maps   ->  gradient [C, H, W]                    one pass over the gradient
    _l1_sum, _l1_gradient  maps          ->  sum |a_ij|, [E; D] sign(a)            tiles of a, on tensor cores

A window is summed in float32 with its rounding errors kept beside the sum (Knuth's two-sum), down its rows; the few
column sums that are left are finished in float64, which even GPUs with slow float64 do fast enough. So S' - T' is right
to float32 however small it is. Partial sums meet in a fixed order: the same bits on every run.

The contracts of the functions below are those of famkern/ops/affinity_maps.py and affinity_l1.py.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Positions, channels and maps' rows of a program's tile. Products need 16 at least.
POSITIONS = 64
TILE_CHANNELS = 16
ROWS = 16
L1_POSITIONS, L1_ROWS = 32, 64  # what an _l1_gradient program owns of the gradient

# Software pipelining (num_stages > 1) spills registers in the kernels with a product in their loop; tests/kernels holds
# every launch below to none.


@triton.jit
def _window_means(source, row_stride, column_stride, inside, POOL: tl.constexpr, SPAN: tl.constexpr):
    """Means over windows whose first elements are at source [n]; SPAN is POOL rounded up to a power of two."""
    column = tl.arange(0, SPAN)
    pointers = source[:, None] + column[None, :] * column_stride
    mask = inside[:, None] & (column < POOL)[None, :]
    if source.dtype.element_ty == tl.float64:
        sums = tl.zeros_like(tl.load(pointers, mask, 0.0))
        for row in range(POOL):
            sums += tl.load(pointers + row * row_stride, mask, 0.0)
    else:
        total = tl.load(pointers, mask, 0.0).to(tl.float32)
        error = total * 0.0
        for row in range(1, POOL):
            value = tl.load(pointers + row * row_stride, mask, 0.0).to(tl.float32)
            added = total + value
            part = added - total
            error += (total - (added - part)) + (value - part)
            total = added
        sums = total.to(tl.float64) + error.to(tl.float64)
    return tl.sum(sums, 1) / (POOL * POOL)


@triton.jit
def _pool(
    student,
    teacher,
    maps,
    inverse,
    student_channels,
    teacher_channels,
    positions,
    columns,
    s_image,
    s_channel,
    s_row,
    s_column,
    t_image,
    t_channel,
    t_row,
    t_column,
    channels_each,
    S_POOL: tl.constexpr,
    S_SPAN: tl.constexpr,
    T_POOL: tl.constexpr,
    T_SPAN: tl.constexpr,
    PAIR: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (block of positions, block of channels, image)."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(2).to(tl.int64)
    inside = n < positions
    y = (n // columns).to(tl.int64)
    x = (n % columns).to(tl.int64)
    s_first = student + image * s_image + y * (S_POOL * s_row) + x * (S_POOL * s_column)
    t_first = teacher + image * t_image + y * (T_POOL * t_row) + x * (T_POOL * t_column)
    widest = student_channels
    if PAIR:
        widest = max(student_channels, teacher_channels)

    s_scale = tl.full((BLOCK,), 1.0, tl.float64)
    t_scale = tl.full((BLOCK,), 1.0, tl.float64)
    if NORMALIZE:  # the lengths first; the second reading of a window finds it in the cache
        s_squares = s_scale * 0.0
        s_at = s_first
        for _ in range(student_channels):
            s = _window_means(s_at, s_row, s_column, inside, S_POOL, S_SPAN)
            s_squares += s * s
            s_at += s_channel
        s_scale = 1.0 / tl.maximum(tl.sqrt(s_squares), 1e-12)
        each = inverse + image * positions + n
        if PAIR:
            each = inverse + image * 2 * positions + n
            t_squares = t_scale * 0.0
            t_at = t_first
            for _ in range(teacher_channels):
                t = _window_means(t_at, t_row, t_column, inside, T_POOL, T_SPAN)
                t_squares += t * t
                t_at += t_channel
            t_scale = 1.0 / tl.maximum(tl.sqrt(t_squares), 1e-12)
            tl.store(each + positions, t_scale.to(inverse.dtype.element_ty), inside)
        tl.store(each, s_scale.to(inverse.dtype.element_ty), inside)

    begin = tl.program_id(1) * channels_each
    s_at = s_first + begin.to(tl.int64) * s_channel
    t_at = t_first + begin.to(tl.int64) * t_channel
    for c in range(begin, min(begin + channels_each, widest)):
        s_inside = inside & (c < student_channels)  # a narrower map's missing channels are zero
        s = s_scale * _window_means(s_at, s_row, s_column, s_inside, S_POOL, S_SPAN)
        s_at += s_channel
        if PAIR:
            t_inside = inside & (c < teacher_channels)
            t = t_scale * _window_means(t_at, t_row, t_column, t_inside, T_POOL, T_SPAN)
            t_at += t_channel
            out = maps + (image * 2 * widest + c) * positions + n
            tl.store(out, (s - t).to(maps.dtype.element_ty), inside)
            tl.store(out + widest.to(tl.int64) * positions, (s + t).to(maps.dtype.element_ty), inside)
        else:
            tl.store(maps + (image * widest + c) * positions + n, s.to(maps.dtype.element_ty), inside)


@triton.jit
def _gram(maps, partials, height, positions, chunk, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (pair of blocks of rows, chunk of positions, image): partials [B, chunks, K, K]."""
    blocks = tl.cdiv(height, ROWS)
    i = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(2).to(tl.int64)
    first = image * height * positions
    begin = tl.program_id(1) * chunk
    end = min(begin + chunk, positions)
    total = tl.zeros((ROWS, ROWS), tl.float64)
    for at in range(begin, end, BLOCK):
        n = at + tl.arange(0, BLOCK)
        a_at = maps + first + i[:, None].to(tl.int64) * positions + n[None, :]
        b_at = maps + first + j[None, :].to(tl.int64) * positions + n[:, None]
        a = tl.load(a_at, (i < height)[:, None] & (n < end)[None, :], 0.0).to(tl.float64)  # [ROWS, BLOCK]
        b = tl.load(b_at, (j < height)[None, :] & (n < end)[:, None], 0.0).to(tl.float64)  # [BLOCK, ROWS]
        total = tl.dot(a, b, total, out_dtype=tl.float64)
    out = partials + ((image * tl.num_programs(1) + tl.program_id(1)) * height + i[:, None]) * height + j[None, :]
    tl.store(out, total, (i < height)[:, None] & (j < height)[None, :])


@triton.jit
def _spread(
    maps,
    coefficients,
    gradient,
    height,
    channels,
    positions,
    columns,
    g_image,
    g_channel,
    g_row,
    g_column,
    POOL: tl.constexpr,
    SPAN: tl.constexpr,
    COMBINE: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (block of positions, block of channels, image)."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    first = maps + image * height * positions
    inside = (c < channels)[:, None] & (n < positions)[None, :]  # [TILE_CHANNELS, BLOCK]
    if COMBINE:
        values = tl.zeros((TILE_CHANNELS, BLOCK), maps.dtype.element_ty)
        for at in range(0, height, ROWS):
            k = at + tl.arange(0, ROWS)
            weight_at = coefficients + (image * channels + c[:, None]) * height + k[None, :]
            weight = tl.load(weight_at, (c < channels)[:, None] & (k < height)[None, :], 0.0)
            m_at = first + k[:, None].to(tl.int64) * positions + n[None, :]
            m = tl.load(m_at, (k < height)[:, None] & (n < positions)[None, :], 0.0)
            weight = weight.to(maps.dtype.element_ty)
            values = tl.dot(weight, m, values, input_precision="ieee", out_dtype=maps.dtype.element_ty)
    else:
        values = tl.load(first + c[:, None].to(tl.int64) * positions + n[None, :], inside, 0.0)
    values = (values / (POOL * POOL)).to(gradient.dtype.element_ty)

    column = tl.arange(0, SPAN)
    y = (n // columns).to(tl.int64)
    x = (n % columns).to(tl.int64)
    corner = y * (POOL * g_row) + x * (POOL * g_column)
    out = (
        gradient
        + image * g_image
        + c[:, None, None].to(tl.int64) * g_channel
        + corner[None, :, None]
        + column[None, None, :] * g_column
    )
    mask = inside[:, :, None] & (column < POOL)[None, None, :]
    window = tl.broadcast_to(values[:, :, None], (TILE_CHANNELS, BLOCK, SPAN))
    for row in range(POOL):
        tl.store(out + row * g_row, window, mask)


@triton.jit
def _difference(
    first, height, positions, i, j, ROWS: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, TF32: tl.constexpr
):
    """a_ij = M_i . (X M)_j / 2 for positions i [LEFT] and j [RIGHT], zero beyond the last position."""
    half = height // 2
    entries = tl.zeros((LEFT, RIGHT), first.dtype.element_ty)
    for at in range(0, height, ROWS):
        k = at + tl.arange(0, ROWS)
        swapped = tl.where(k < half, k + half, k - half)
        a_at = first + k[None, :].to(tl.int64) * positions + i[:, None]
        b_at = first + swapped[:, None].to(tl.int64) * positions + j[None, :]
        a = tl.load(a_at, (k < height)[None, :] & (i < positions)[:, None], 0.0)  # [LEFT, ROWS]
        b = tl.load(b_at, (k < height)[:, None] & (j < positions)[None, :], 0.0)  # [ROWS, RIGHT]
        entries = tl.dot(a, b, entries, input_precision=TF32, out_dtype=first.dtype.element_ty)
    return entries * 0.5


@triton.jit
def _l1_sum(maps, partials, height, positions, ROWS: tl.constexpr, BLOCK: tl.constexpr, TF32: tl.constexpr):
    """Program (row of tiles and the one as far from the end, image): partials [B, pairs]. Off the diagonal a tile
    counts twice, for itself and its mirror image.
    """
    first = maps + tl.program_id(1).to(tl.int64) * height * positions
    tiles = tl.cdiv(positions, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    upper = tl.program_id(0)
    lower = tiles - 1 - upper
    for step in range(0, tiles + 1):  # tiles - upper of the upper row, then upper + 1 of the lower one
        is_upper = step < tiles - upper
        row = tl.where(is_upper, upper, lower)
        column = tl.where(is_upper, upper + step, lower + step - (tiles - upper))
        i = row * BLOCK + tl.arange(0, BLOCK)
        j = column * BLOCK + tl.arange(0, BLOCK)
        entries = _difference(first, height, positions, i, j, ROWS, BLOCK, BLOCK, TF32)
        weight = tl.where(row == column, 1.0, 2.0)
        weight = tl.where((upper == lower) & (step >= tiles - upper), 0.0, weight)  # the middle row has no partner
        total += weight * tl.sum(tl.abs(entries), 1).to(tl.float64)
    tl.store(partials + tl.program_id(1) * tl.num_programs(0) + upper, tl.sum(total, 0))


@triton.jit
def _l1_gradient(
    maps,
    scale,
    gradient,
    height,
    positions,
    ROWS: tl.constexpr,
    OWN: tl.constexpr,
    BLOCK: tl.constexpr,
    TF32: tl.constexpr,
):
    """Program (block of positions, block of OWN rows, image): gradient = scale * (X M) sign(a)."""
    image = tl.program_id(2).to(tl.int64)
    first = maps + image * height * positions
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1) * OWN + tl.arange(0, OWN)
    half = height // 2
    swapped = tl.where(k < half, k + half, k - half)
    total = tl.zeros((OWN, BLOCK), maps.dtype.element_ty)
    for at in range(0, positions, BLOCK):
        j = at + tl.arange(0, BLOCK)
        entries = _difference(first, height, positions, j, i, ROWS, BLOCK, BLOCK, TF32)  # [j, i]
        signs = (entries > 0).to(maps.dtype.element_ty) - (entries < 0).to(maps.dtype.element_ty)
        m_at = first + swapped[:, None].to(tl.int64) * positions + j[None, :]
        m = tl.load(m_at, (k < height)[:, None] & (j < positions)[None, :], 0.0)
        total = tl.dot(m, signs, total, input_precision=TF32, out_dtype=maps.dtype.element_ty)
    out = gradient + (image * height + k[:, None]) * positions + i[None, :]
    total = total * tl.load(scale + image).to(maps.dtype.element_ty)
    tl.store(out, total, (k < height)[:, None] & (i < positions)[None, :])


def _on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The tensor's GPU as the current one; nothing to do under the interpreter, where tensors are on the CPU."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _precision(maps: Tensor) -> str:
    """float32 products on tensor cores, in three parts that together are as good as float32."""
    return "ieee" if maps.dtype == torch.float64 else "tf32x3"


def affinity_maps(
    teacher: Tensor | None,
    student: Tensor,
    teacher_pool: int,
    student_pool: int,
    normalize: bool,
    gram: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """`famkern::affinity_maps` but for its norms, which follow from gram; `dtype` is that of the maps."""
    pair = teacher is not None
    other = student if teacher is None else teacher
    B, C, H, W = student.shape
    widest = max(C, other.shape[1])
    columns = W // student_pool
    N, K = (H // student_pool) * columns, (2 if pair else 1) * widest
    maps = student.new_empty((B, K, N), dtype=dtype)
    inverse = student.new_empty((B, (2 if pair else 1) if normalize else 0, N), dtype=dtype)
    each = widest if normalize else 1
    with _on(student):
        _pool[(triton.cdiv(N, POSITIONS), triton.cdiv(widest, each), B)](
            student,
            other,
            maps,
            inverse,
            C,
            other.shape[1],
            N,
            columns,
            *student.stride(),
            *other.stride(),
            each,
            S_POOL=student_pool,
            S_SPAN=triton.next_power_of_2(student_pool),
            T_POOL=teacher_pool,
            T_SPAN=triton.next_power_of_2(teacher_pool),
            PAIR=pair,
            NORMALIZE=normalize,
            BLOCK=POSITIONS,
        )
        if not gram:
            grams = student.new_empty((0, K, K), dtype=torch.float64)
            return maps, inverse, grams
        # As many chunks as programs of few rows need to fill a GPU: 64 an image, or what 32 MiB of partial sums hold.
        most = min(64, max(1, (1 << 22) // (B * K * K)))
        chunk = POSITIONS * triton.cdiv(N, most * POSITIONS)
        chunks, blocks = triton.cdiv(N, chunk), triton.cdiv(K, ROWS)
        partials = student.new_empty((B, chunks, K, K), dtype=torch.float64)
        _gram[(blocks * blocks, chunks, B)](maps, partials, K, N, chunk, ROWS=ROWS, BLOCK=POSITIONS, num_stages=1)
        grams = partials.sum(1)
    return maps, inverse, grams


def affinity_spread(maps: Tensor, coefficients: Tensor | None, like: Tensor, pool: int) -> Tensor:
    """`famkern::affinity_spread`."""
    maps = maps.contiguous()
    B, C, H, W = like.shape
    K, N = maps.shape[1:]
    covered = H % pool == 0 and W % pool == 0
    gradient = torch.empty_like(like) if covered else torch.zeros_like(like)
    span = triton.next_power_of_2(pool)
    block = max(16, 256 // span)
    with _on(maps):
        _spread[(triton.cdiv(N, block), triton.cdiv(C, TILE_CHANNELS), B)](
            maps,
            maps if coefficients is None else coefficients.contiguous(),
            gradient,
            K,
            C,
            N,
            W // pool,
            *gradient.stride(),
            POOL=pool,
            SPAN=span,
            COMBINE=coefficients is not None,
            TILE_CHANNELS=TILE_CHANNELS,
            ROWS=ROWS,
            BLOCK=block,
            num_stages=1,
        )
    return gradient


def affinity_l1(maps: Tensor) -> Tensor:
    """`famkern::affinity_l1`."""
    maps = maps.contiguous()
    B, K, N = maps.shape
    pairs = triton.cdiv(triton.cdiv(N, POSITIONS), 2)
    partials = maps.new_empty((B, pairs), dtype=torch.float64)
    with _on(maps):
        _l1_sum[(pairs, B)](maps, partials, K, N, ROWS=ROWS, BLOCK=POSITIONS, TF32=_precision(maps))
        return partials.sum(1)


def affinity_l1_backward(maps: Tensor, scale: Tensor) -> Tensor:
    """`famkern::affinity_l1_backward`."""
    maps, scale = maps.contiguous(), scale.contiguous()
    B, K, N = maps.shape
    gradient = torch.empty_like(maps)
    own = ROWS if K <= ROWS else L1_ROWS
    with _on(maps):
        _l1_gradient[(triton.cdiv(N, L1_POSITIONS), triton.cdiv(K, own), B)](
            maps,
            scale,
            gradient,
            K,
            N,
            ROWS=ROWS,
            OWN=own,
            BLOCK=L1_POSITIONS,
            TF32=_precision(maps),
            num_stages=1,
        )
    return gradient
