"""The kernels that read a picture: the head, and the tails of both families, which write one."""

from __future__ import annotations

import triton
import triton.language as tl

from .blocks import SIZES
from .pieces import (
    _at,
    _convolve,
    _convolve_block,
    _finish_block,
    _finish_group,
    _gate,
    _in_image,
    _inside,
    _keep,
    _memory,
    _normalised,
    _offsets,
    _pixel_attention,
    _place,
    _read_at,
    _ring,
    _write,
)


@triton.jit(do_not_specialize=SIZES)
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
    band = rows, top, bottom, width, blocks
    place = _place(rows, blocks, run, M, 3)
    memory = _memory(scratch, M, PICTURE + 2 * C)
    ring_r = _ring(memory, 0, M, C)
    ring_x = _ring(memory, C, M, C)
    ring_p = _ring(memory, 2 * C, M, PICTURE)
    for step in tl.range(0, place[3] - place[2] + 9, num_stages=1):
        row = place[2] - 3 + step
        inside = _in_image(place, band, row, M, 0)
        _keep(ring_p, row, _normalised(image, normalisation, place, band, row, inside, M, PICTURE), M, PICTURE)

        row -= 2
        x = _convolve(ring_p, row, pre, M, PICTURE, C, 4)
        x = tl.where(_in_image(place, band, row, M, 1), x, 0.0)
        _keep(ring_x, row, x, M, C)
        _write(outputs[0], place, band, row, x, M, C, 3)
        _convolve_block(
            ring_x, ring_r, conv1, conv2, outputs[1], z_sums, place, band, cells, row - 2, M, C, TAPS, 3, WINDOWS
        )
        tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
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
    """o = sum of w[i] r_i, y = clamp(post2(post1(o * pa(o))) + (image - mean) / std, 0, 1)."""
    cells = gate_rows, gate_columns, cell, first_row, parts
    band = rows, top, bottom, width, blocks
    place = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_o = _ring(memory, 0, M, C)
    ring_p = _ring(memory, C, M, C)
    for step in tl.range(0, place[3] - place[2] + 6, num_stages=1):
        row = place[2] - 2 + step
        o = _weigh(groups, gate, place, band, cells, row, M, C, WINDOWS)
        _keep(ring_o, row, _pixel_attention(o, attention, C), M, C)

        row -= 2
        p = _convolve(ring_o, row, post1, M, C, C, TAPS)
        _keep(ring_p, row, tl.where(_in_image(place, band, row, M, 1), p, 0.0), M, C)

        row -= 2
        y = _convolve(ring_p, row, post2, M, C, RGB, TAPS)
        _write_picture(out, y, image, normalisation, place, band, row, M, RGB, False)
        tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def _u_tail(
    image,
    maps,
    gate,
    normalisation,
    attention,
    conv,
    post,
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
    GAIN: tl.constexpr,
):
    """o = post(conv(z g * pa(z g) + x) + skip), and the picture that `_write_picture` makes of it."""
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

        row -= 2
        _keep(ring_r, row, _finish_group(ring_x, maps[2], conv, place, band, row, M, C, TAPS), M, C)

        row -= 2
        o = _convolve(ring_r, row, post, M, C, RGB, TAPS)
        _write_picture(out, o, image, normalisation, place, band, row, M, RGB, GAIN)
        tl.debug_barrier()


@triton.jit
def _weigh(groups, gate, place, band, cells, row, M: tl.constexpr, C: tl.constexpr, WINDOWS: tl.constexpr):
    """Source: the sum of w[i] r_i, 0 outside the image. [M, C]"""
    inside = _in_image(place, band, row, M, 0)
    index = _read_at(place, band, row) * C + _offsets(M, C)
    o = tl.zeros((M, C), tl.float32)
    for i in tl.static_range(len(groups)):
        share = _gate(gate, i * C, place, band, cells, row, inside, len(groups) * C, M, C, WINDOWS)
        o += tl.load(groups[i] + index, inside, 0.0).to(tl.float32) * share
    return o


@triton.jit
def _write_picture(
    out, o, image, normalisation, place, band, row, M: tl.constexpr, RGB: tl.constexpr, GAIN: tl.constexpr
):
    """y = clamp(o + x1, 0, 1), x1 the normalised picture; with GAIN clamp(K x1 - B + x1, 0, 1), B the first three channels
    of o and K the fourth.
    """
    own = _inside(place[4], band[3], (row >= place[2]) & (row < place[3]), M, 2)
    x1 = _normalised(image, normalisation, place, band, row, own, M, RGB)
    c = tl.arange(0, RGB)[None, :]
    if GAIN:
        o = tl.sum(tl.where(c == 3, o, 0.0), 1)[:, None] * x1 - o
    to = out + _at(row, place[4], place[0], band[0], band[3]) * 3 + tl.arange(0, M)[:, None] * 3 + c
    tl.store(to, tl.minimum(tl.maximum(o + x1, 0.0), 1.0), own & (c < 3))
