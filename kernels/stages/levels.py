"""The kernels that lead from one level of a U-shaped student to another: to half the scale, and to twice."""

from __future__ import annotations

import triton
import triton.language as tl

from .blocks import SIZES
from .pieces import (
    _at,
    _convolve_block,
    _in_image,
    _inside,
    _keep,
    _memory,
    _place,
    _read_at,
    _ring,
    _write,
)

LEVEL_SIZES = [*SIZES, "other_rows", "other_width"]


@triton.jit(do_not_specialize=LEVEL_SIZES)
def _down(
    fine,
    down,
    conv1,
    conv2,
    outputs,
    z_sums,
    scratch,
    rows,
    top,
    bottom,
    width,
    blocks,
    run,
    gate_rows,
    gate_columns,
    cell,
    first_row,
    parts,
    other_rows,
    other_width,
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    WINDOWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """x = down(fine), 2x2 pixels to one, and z = conv2(relu(conv1(x)) + x)."""
    cells = gate_rows, gate_columns, cell, first_row, parts
    band = rows, top, bottom, width, blocks
    place = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_x = _ring(memory, 0, M, C)
    ring_r = _ring(memory, C, M, C)
    for step in tl.range(0, place[3] - place[2] + 6, num_stages=1):
        row = place[2] - 2 + step
        x = _halve(fine, other_rows, other_width, down, place, band, row, M, INPUTS, C)
        _keep(ring_x, row, x, M, C)
        _write(outputs[0], place, band, row, x, M, C, 2)
        _convolve_block(
            ring_x, ring_r, conv1, conv2, outputs[1], z_sums, place, band, cells, row - 2, M, C, TAPS, 2, WINDOWS
        )
        tl.debug_barrier()


@triton.jit(do_not_specialize=LEVEL_SIZES)
def _up(
    coarse,
    skip,
    up,
    fuse,
    conv1,
    conv2,
    outputs,
    z_sums,
    scratch,
    rows,
    top,
    bottom,
    width,
    blocks,
    run,
    gate_rows,
    gate_columns,
    cell,
    first_row,
    parts,
    other_rows,
    other_width,
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    WINDOWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """x = up(coarse) + fuse(skip), one pixel to 2x2, and z = conv2(relu(conv1(x)) + x)."""
    cells = gate_rows, gate_columns, cell, first_row, parts
    band = rows, top, bottom, width, blocks
    place = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_x = _ring(memory, 0, M, C)
    ring_r = _ring(memory, C, M, C)
    for step in tl.range(0, place[3] - place[2] + 6, num_stages=1):
        row = place[2] - 2 + step
        x = _join(coarse, other_rows, other_width, skip, up, fuse, place, band, first_row, row, M, INPUTS, C, TAPS)
        _keep(ring_x, row, x, M, C)
        _write(outputs[0], place, band, row, x, M, C, 2)
        _convolve_block(
            ring_x, ring_r, conv1, conv2, outputs[1], z_sums, place, band, cells, row - 2, M, C, TAPS, 2, WINDOWS
        )
        tl.debug_barrier()


@triton.jit
def _halve(
    fine, fine_rows, fine_width, weights, place, band, row, M: tl.constexpr, INPUTS: tl.constexpr, C: tl.constexpr
):
    """Source: x = down(fine), with zeros beyond the finer map; 0 outside the image. Weights [2, 2, INPUTS, C]. [M, C]"""
    lanes = tl.arange(0, M)[:, None]
    k = tl.arange(0, INPUTS)
    o = tl.arange(0, C)
    inside = _in_image(place, band, row, M, 0)
    taps = weights[0] + k[:, None] * C + o[None, :]
    x = tl.zeros((M, C), tl.float32) + tl.load(weights[1] + o)[None, :]
    for tap in tl.range(0, 4 * tl.num_programs(2), num_stages=1):  # times 1, see _convolve
        y = 2 * (row + band[1]) + tap // 2
        begin = 2 * place[4] + tap % 2
        there = inside & (y < fine_rows) & (begin + 2 * lanes < fine_width)
        at = _at(y, begin, place[0], fine_rows, fine_width) * INPUTS
        pixels = tl.load(fine + at + 2 * INPUTS * lanes + k[None, :], there, 0.0)
        x = tl.dot(pixels, tl.load(taps + tap * (INPUTS * C)), x, input_precision="ieee")
    return tl.where(inside, x, 0.0)


@triton.jit
def _join(
    coarse,
    coarse_rows,
    coarse_width,
    skip,
    up,
    fuse,
    place,
    band,
    first_row,
    row,
    M: tl.constexpr,
    INPUTS: tl.constexpr,
    C: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Source: x = up(coarse) + bias + fuse skip; 0 outside the image. [M, C]

    Two lanes beside each other come from one pixel of the coarser map: M / 2 of its pixels times [INPUTS, 2 C] numbers are
    M lanes in their order, since lane 0 lies in an even column. Weights [2, INPUTS, 2 C] and bias [2, 2 C] are those of
    even and of odd rows; fuse [C, C].
    """
    STEP: tl.constexpr = 16 if TAPS == 1 else (INPUTS if INPUTS < C else C)
    y = row + band[1] + first_row
    odd = y & 1
    inside = _in_image(place, band, row, M, 0)
    there = _inside(place[4] >> 1, coarse_width, (row >= -band[1]) & (row < band[0] + band[2]), M // 2, 0)
    at = _at((y >> 1) - (first_row >> 1), place[4] >> 1, place[0], coarse_rows, coarse_width)
    four = tl.zeros((M // 2, 2 * C), tl.float32) + tl.load(up[1] + odd * (2 * C) + tl.arange(0, 2 * C))[None, :]
    weights = up[0] + odd * (2 * INPUTS * C)
    four = _add_products(four, coarse + at * INPUTS, there, weights, M // 2, INPUTS, 2 * C, STEP)
    x = tl.reshape(four, (M, C))
    x = _add_products(x, skip + _read_at(place, band, row) * C, inside, fuse, M, C, C, STEP)
    return tl.where(inside, x, 0.0)


@triton.jit
def _add_products(total, pixels, there, weights, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr):
    """total + M pixels of K numbers, side by side, times weights [K, N]; STEP numbers of each at a time. [M, N]"""
    k = tl.arange(0, STEP)[None, :]
    at = weights + tl.arange(0, STEP)[:, None] * N + tl.arange(0, N)[None, :]
    for first in tl.range(0, K * tl.num_programs(2), STEP, num_stages=1):
        some = tl.load(pixels + first + tl.arange(0, M)[:, None] * K + k, there, 0.0)
        total = tl.dot(some, tl.load(at + first * N), total, input_precision="ieee")
    return total
