"""The kernels of ordinary stages and of a group's end, and the one that adds up sums."""

from __future__ import annotations

import triton
import triton.language as tl

from .pieces import (
    _convolve_block,
    _finish_block,
    _finish_group,
    _keep,
    _memory,
    _place,
    _ring,
    _write,
    _write_sums,
)

# Sizes say nothing about the code: one compilation, one arithmetic.
SIZES = ["rows", "top", "bottom", "width", "blocks", "run", "gate_rows", "gate_columns", "cell", "first_row", "parts"]


@triton.jit(do_not_specialize=SIZES)
def _block(
    maps,
    gate,
    attention,
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
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """x' = z g * pa(z g) + x, z' = conv2(relu(conv1(x')) + x')."""
    cells = gate_rows, gate_columns, cell, first_row, parts
    band = rows, top, bottom, width, blocks
    place = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_x = _ring(memory, 0, M, C)
    ring_r = _ring(memory, C, M, C)
    for step in tl.range(0, place[3] - place[2] + 6, num_stages=1):
        row = place[2] - 2 + step
        x = _finish_block(maps[0], maps[1], gate, attention, place, band, cells, row, M, C, WINDOWS)
        _keep(ring_x, row, x, M, C)
        _write(outputs[0], place, band, row, x, M, C, 2)
        _convolve_block(
            ring_x, ring_r, conv1, conv2, outputs[1], z_sums, place, band, cells, row - 2, M, C, TAPS, 2, WINDOWS
        )
        tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def _group(
    maps,
    gate,
    attention,
    conv,
    conv1,
    conv2,
    outputs,
    r_sums,
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
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    WINDOWS: tl.constexpr,
    LAST: tl.constexpr,
):
    """r = conv(z g * pa(z g) + x) + skip and, unless LAST, z' = conv2(relu(conv1(r)) + r)."""
    REACH: tl.constexpr = 1 if LAST else 3
    cells = gate_rows, gate_columns, cell, first_row, parts
    band = rows, top, bottom, width, blocks
    place = _place(rows, blocks, run, M, REACH)
    memory = _memory(scratch, M, C if LAST else 3 * C)
    ring_x = _ring(memory, 0, M, C)
    if not LAST:
        ring_g = _ring(memory, C, M, C)
        ring_r = _ring(memory, 2 * C, M, C)
    for step in tl.range(0, place[3] - place[2] + 3 * REACH, num_stages=1):
        row = place[2] - REACH + step
        x = _finish_block(maps[0], maps[1], gate, attention, place, band, cells, row, M, C, WINDOWS)
        _keep(ring_x, row, x, M, C)

        row -= 2
        r = _finish_group(ring_x, maps[2], conv, place, band, row, M, C, TAPS)
        _write(outputs[0], place, band, row, r, M, C, REACH)
        _write_sums(r_sums, place, band, cells, row, r, M, C, REACH, WINDOWS)

        if not LAST:
            _keep(ring_g, row, r, M, C)
            _convolve_block(
                ring_g, ring_r, conv1, conv2, outputs[1], z_sums, place, band, cells, row - 2, M, C, TAPS, 3, WINDOWS
            )
        tl.debug_barrier()


@triton.jit(do_not_specialize=["blocks", "parts", "cell", "own", "width"])
def _sum(partials, sums, blocks, parts, cell, own, width, C: tl.constexpr, BLOCKS: tl.constexpr):
    """Program (row of an image, cell): of partials (rows, blocks, parts, C) float32 those of the blocks that the cell
    meets, which own so many columns each, -> sums (rows, cells, C) float64.
    """
    row = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * cell
    c = tl.arange(0, C)
    total = tl.zeros((C,), tl.float64)
    last = tl.cdiv(tl.minimum(begin + cell, width), own)
    for at in tl.range(begin // own, last, BLOCKS):
        block = at + tl.arange(0, BLOCKS)[:, None]
        part = tl.program_id(1) - block * own // cell
        part = tl.load(partials + ((row * blocks + block) * parts + part) * C + c[None, :], block < last, 0.0)
        total += tl.sum(part.to(tl.float64), 0)
    tl.store(sums + (row * tl.num_programs(1) + tl.program_id(1)) * C + c, total)
