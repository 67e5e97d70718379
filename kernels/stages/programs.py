"""The kernels of the stages, one a stage, and the one that adds up sums; see the package for how data moves."""

from __future__ import annotations

import triton
import triton.language as tl

from .pieces import (
    _at,
    _convolve,
    _finish_block,
    _gate,
    _inside,
    _keep,
    _memory,
    _normalised,
    _offsets,
    _pixel_attention,
    _place,
    _residual,
    _ring,
    _write,
    _write_sums,
)

# `rows` are those of the results; the maps that are read have `top` more above and `bottom` below. Row numbers count
# from the first result: the rows that exist are -top <= row < rows + bottom.

# Sizes say nothing about the code: one compilation, one arithmetic.
_SIZES = ["rows", "top", "bottom", "width", "blocks", "run", "gate_rows", "gate_columns", "cell", "first_row", "parts"]


@triton.jit(do_not_specialize=_SIZES)
def _head(
    image,
    normalisation,
    pre,
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
    PICTURE: tl.constexpr,
):
    """x = pre((image - mean) / std), z = conv2(relu(conv1(x)) + x)."""
    cells = gate_rows, gate_columns, cell, first_row, parts
    index, block, first, last, begin = _place(rows, blocks, run, M, 3)
    memory = _memory(scratch, M, PICTURE + 2 * C)
    ring_r = _ring(memory, 0, M, C)
    ring_x = _ring(memory, C, M, C)
    ring_p = _ring(memory, 2 * C, M, PICTURE)
    for step in tl.range(0, last - first + 9, num_stages=1):
        row = first - 3 + step
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 0)
        at = _at(row + top, begin, index, top + rows + bottom, width)
        picture = _normalised(image, normalisation[0], normalisation[1], at, inside, M, PICTURE)
        _keep(ring_p, row, picture, M, PICTURE)

        row -= 2
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 1)
        x = tl.where(inside, _convolve(ring_p, row, pre, M, PICTURE, C, 4), 0.0)
        _keep(ring_x, row, x, M, C)
        own = _inside(begin, width, (row >= first) & (row < last), M, 3)
        _write(outputs[0], _at(row, begin, index, rows, width), x, own, M, C)

        row -= 2
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 2)
        _keep(ring_r, row, _residual(ring_x, row, conv1, inside, M, C, TAPS), M, C)

        row -= 2
        own = _inside(begin, width, row >= first, M, 3)
        z = _convolve(ring_r, row, conv2, M, C, C, TAPS)
        _write(outputs[1], _at(row, begin, index, rows, width), z, own, M, C)
        _write_sums(z_sums, z, own, row >= first, row, block, index, rows, blocks, begin, cells, M, C, 3, WINDOWS)
        tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
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
    image, block, first, last, begin = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_x = _ring(memory, 0, M, C)
    ring_r = _ring(memory, C, M, C)
    for step in tl.range(0, last - first + 6, num_stages=1):
        row = first - 2 + step
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 0)
        at = _at(row + top, begin, image, top + rows + bottom, width)
        place = row + top
        x = _finish_block(maps[0], maps[1], gate, attention, image, place, begin, at, inside, cells, M, C, WINDOWS)
        _keep(ring_x, row, x, M, C)
        own = _inside(begin, width, (row >= first) & (row < last), M, 2)
        _write(outputs[0], _at(row, begin, image, rows, width), x, own, M, C)

        row -= 2
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 1)
        _keep(ring_r, row, _residual(ring_x, row, conv1, inside, M, C, TAPS), M, C)

        row -= 2
        own = _inside(begin, width, row >= first, M, 2)
        z = _convolve(ring_r, row, conv2, M, C, C, TAPS)
        _write(outputs[1], _at(row, begin, image, rows, width), z, own, M, C)
        _write_sums(z_sums, z, own, row >= first, row, block, image, rows, blocks, begin, cells, M, C, 2, WINDOWS)
        tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
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
    image, block, first, last, begin = _place(rows, blocks, run, M, REACH)
    memory = _memory(scratch, M, C if LAST else 3 * C)
    ring_x = _ring(memory, 0, M, C)
    if not LAST:
        ring_g = _ring(memory, C, M, C)
        ring_r = _ring(memory, 2 * C, M, C)
    for step in tl.range(0, last - first + 3 * REACH, num_stages=1):
        row = first - REACH + step
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 0)
        at = _at(row + top, begin, image, top + rows + bottom, width)
        place = row + top
        x = _finish_block(maps[0], maps[1], gate, attention, image, place, begin, at, inside, cells, M, C, WINDOWS)
        _keep(ring_x, row, x, M, C)

        row -= 2
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 1)
        at = _at(row + top, begin, image, top + rows + bottom, width)
        skip = tl.load(maps[2] + at * C + _offsets(M, C), inside, 0.0).to(tl.float32)
        r = tl.where(inside, _convolve(ring_x, row, conv, M, C, C, TAPS) + skip, 0.0)
        mine = (row >= first) & (row < last)
        own = _inside(begin, width, mine, M, REACH)
        _write(outputs[0], _at(row, begin, image, rows, width), r, own, M, C)
        _write_sums(r_sums, r, own, mine, row, block, image, rows, blocks, begin, cells, M, C, REACH, WINDOWS)

        if not LAST:
            _keep(ring_g, row, r, M, C)

            row -= 2
            inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 2)
            _keep(ring_r, row, _residual(ring_g, row, conv1, inside, M, C, TAPS), M, C)

            row -= 2
            own = _inside(begin, width, row >= first, M, 3)
            z = _convolve(ring_r, row, conv2, M, C, C, TAPS)
            _write(outputs[1], _at(row, begin, image, rows, width), z, own, M, C)
            _write_sums(z_sums, z, own, row >= first, row, block, image, rows, blocks, begin, cells, M, C, 3, WINDOWS)
        tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
def _tail(
    image,
    groups,
    gate,
    normalisation,
    attention,
    post1,
    post2,
    out,
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
    RGB: tl.constexpr,
):
    """o = sum of w[i] r_i, y = clamp(post2(post1(o * pa(o))) + (image - mean) / std, 0, 1); post2 has RGB outputs."""
    cells = gate_rows, gate_columns, cell, first_row, parts
    index, _, first, last, begin = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_o = _ring(memory, 0, M, C)
    ring_p = _ring(memory, C, M, C)
    for step in tl.range(0, last - first + 6, num_stages=1):
        row = first - 2 + step
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 0)
        at = _at(row + top, begin, index, top + rows + bottom, width)
        o = tl.zeros((M, C), tl.float32)
        for i in tl.static_range(len(groups)):
            share = _gate(gate, i * C, index, row + top, begin, inside, cells, len(groups) * C, M, C, WINDOWS)
            o += tl.load(groups[i] + at * C + _offsets(M, C), inside, 0.0).to(tl.float32) * share
        _keep(ring_o, row, _pixel_attention(o, attention, C), M, C)

        row -= 2
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 1)
        _keep(ring_p, row, tl.where(inside, _convolve(ring_o, row, post1, M, C, C, TAPS), 0.0), M, C)

        row -= 2
        own = _inside(begin, width, row >= first, M, 2)
        at = _at(row + top, begin, index, top + rows + bottom, width)
        y = _convolve(ring_p, row, post2, M, C, RGB, TAPS)
        y += _normalised(image, normalisation[0], normalisation[1], at, own, M, RGB)
        c = tl.arange(0, RGB)[None, :]
        to = out + _at(row, begin, index, rows, width) * 3 + tl.arange(0, M)[:, None] * 3 + c
        tl.store(to, tl.minimum(tl.maximum(y, 0.0), 1.0), own & (c < 3))
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
