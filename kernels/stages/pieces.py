"""What the stages' kernels are made of: rings of rows, convolutions, gates, sums.

The steps have the names that they have in C++ too: a source makes a row of what the first convolution reads, `convolve`
computes a row of a convolution, `keep` puts a row into a ring, `write` into a result, `write_sums` adds it up.

Maps are contiguous. Kernels hand on three tuples:

    place    of a program: image, block of columns, first and last row of its run, and `begin`, the column of lane 0, which
             may lie left of the image
    band     rows, top, bottom, width, and blocks of columns; `rows` are those of the results, what is read has `top` more
             above and `bottom` below, and row numbers count from the first result
    cells    of means over windows: rows and columns of the gate, columns (and rows) of a cell, the picture's row of the
             first one that is read, how many cells a block's own columns meet at most. Without WINDOWS there is one gate
             and one sum for all columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = tl.constexpr(4)  # of a ring
MARGIN = tl.constexpr(8)  # columns of a ring beside the lanes: -1 and those that taps with zero weights read


@triton.jit
def _place(rows, blocks, run, M: tl.constexpr, REACH: tl.constexpr):
    """Program (block of columns and run of rows, image): its place."""
    block = tl.program_id(0) % blocks
    first = tl.program_id(0) // blocks * run
    return tl.program_id(1).to(tl.int64), block, first, tl.minimum(first + run, rows), block * (M - 2 * REACH) - REACH


@triton.jit
def _memory(scratch, M: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's rings, of so many channels together."""
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    return scratch + program.to(tl.int64) * (ROWS * (M + MARGIN) * CHANNELS)


@triton.jit
def _ring(memory, BEFORE: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """A ring of C channels, behind others of BEFORE channels; zeros right of the lanes, for taps whose weights are."""
    ring = memory + BEFORE * (ROWS * (M + MARGIN))
    beside = tl.arange(0, ROWS)[:, None] * ((M + MARGIN) * C) + (M + 1) * C + tl.arange(0, 4 * C)[None, :]
    tl.store(ring + beside, tl.zeros((ROWS, 4 * C), ring.dtype.element_ty))
    return ring


@triton.jit
def _slot(ring, row, M: tl.constexpr, C: tl.constexpr):
    """Column -1 of a row in its ring."""
    return ring + (row & (ROWS - 1)) * ((M + MARGIN) * C)


@triton.jit
def _at(row, begin, image, rows, width):
    """Index of a pixel of maps (B, rows, width)."""
    return (image * rows + row) * width + begin


@triton.jit
def _offsets(M: tl.constexpr, C: tl.constexpr):
    return tl.arange(0, M)[:, None] * C + tl.arange(0, C)[None, :]


@triton.jit
def _inside(begin, width, condition, M: tl.constexpr, CUT: tl.constexpr):
    """Lanes that lie in the image, without the CUT outermost on both sides; none unless `condition`. [M, 1]"""
    low = tl.maximum(begin + CUT, 0)
    count = tl.where(condition, tl.maximum(tl.minimum(begin + M - CUT, width) - low, 0), 0)
    position = begin - low + tl.arange(0, M)
    # One unsigned comparison a lane: 0 <= position < count.
    return (position.to(tl.uint32, bitcast=True) < count.to(tl.uint32, bitcast=True))[:, None]


@triton.jit
def _in_image(place, band, row, M: tl.constexpr, CUT: tl.constexpr):
    """Lanes of a row that lie in the image, without the CUT outermost on both sides. [M, 1]"""
    return _inside(place[4], band[3], (row >= -band[1]) & (row < band[0] + band[2]), M, CUT)


@triton.jit
def _read_at(place, band, row):
    """Index of lane 0 in a row of what is read."""
    return _at(row + band[1], place[4], place[0], band[1] + band[0] + band[2], band[3])


@triton.jit
def _pixel_attention(v, weights, C: tl.constexpr):
    """v * sigmoid(W2 relu(W1 v + b1) + b2). [M, C]"""
    logit = tl.load(weights[3])
    for j in tl.static_range(C // 8):
        hidden = tl.sum(v * tl.load(weights[0] + j * C + tl.arange(0, C))[None, :], 1) + tl.load(weights[1] + j)
        logit += tl.maximum(hidden, 0.0) * tl.load(weights[2] + j)
    return v * tl.sigmoid(logit)[:, None]


@triton.jit
def _gate(
    gate,
    first,
    place,
    band,
    cells,
    row,
    inside,
    COUNT: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """Weights of C channels in a row of what is read, of COUNT at a corner from `first` on. [1, C] or [M, C]"""
    c = first + tl.arange(0, C)[None, :]
    if WINDOWS:  # linear between the corners; the same all along a side that has one
        gate_rows, gate_columns, cell, first_row = cells[0], cells[1], cells[2], cells[3]
        row += band[1] + first_row
        column = place[4] + tl.arange(0, M)
        above = tl.where(gate_rows > 1, row // cell, 0)
        left = tl.where(gate_columns > 1, tl.maximum(column, 0) // cell, 0)
        below = tl.where(gate_rows > 1, gate_columns * COUNT, 0)
        beside = tl.where(gate_columns > 1, COUNT, 0)
        corner = gate + ((place[0] * gate_rows + above) * gate_columns + left)[:, None] * COUNT + c
        down = (row - above * cell).to(tl.float32) / cell
        right = (column - left * cell).to(tl.float32) / cell
        value = tl.load(corner, inside, 0.0)
        value += (tl.load(corner + below, inside, 0.0) - value) * down
        other = tl.load(corner + beside, inside, 0.0)
        other += (tl.load(corner + below + beside, inside, 0.0) - other) * down
        value += (other - value) * right[:, None]
    else:
        value = tl.load(gate + place[0] * COUNT + c)
    return value


@triton.jit
def _finish_block(
    x, z, gate, weights, place, band, cells, row, M: tl.constexpr, C: tl.constexpr, WINDOWS: tl.constexpr
):
    """Source: x' = z g * pa(z g) + x; 0 outside the image, where x and z are. [M, C]"""
    inside = _in_image(place, band, row, M, 0)
    index = _read_at(place, band, row) * C + _offsets(M, C)
    gated = tl.load(z + index, inside, 0.0).to(tl.float32)
    gated *= _gate(gate, 0, place, band, cells, row, inside, C, M, C, WINDOWS)
    return _pixel_attention(gated, weights, C) + tl.load(x + index, inside, 0.0).to(tl.float32)


@triton.jit
def _convolve(ring, row, weights, M: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, TAPS: tl.constexpr):
    """3x3 convolution of rows row - 1 .. row + 1 of a ring; weights [3, 3, INPUTS, OUTPUTS]. [M, OUTPUTS] float32"""
    k = tl.arange(0, TAPS * INPUTS)
    o = tl.arange(0, OUTPUTS)
    span = tl.arange(0, M)[:, None] * INPUTS + k[None, :]
    taps = weights[0] + k[:, None] * OUTPUTS + o[None, :]
    total = tl.zeros((M, OUTPUTS), tl.float32) + tl.load(weights[1] + o)[None, :]
    if TAPS == 1:  # nine products of 64 channels, or in float32, are too much code and too many registers in a row
        for tap in tl.range(0, 9 * tl.num_programs(2), num_stages=1):  # times 1, at which LLVM does not unroll the loop
            pixels = tl.load(_slot(ring, row - 1 + tap // 3, M, INPUTS) + tap % 3 * INPUTS + span)
            total = tl.dot(pixels, tl.load(taps + tap * (INPUTS * OUTPUTS)), total, input_precision="ieee")
    else:
        for dy in tl.static_range(3):
            for dx in tl.static_range(0, 3, TAPS):
                pixels = tl.load(_slot(ring, row - 1 + dy, M, INPUTS) + dx * INPUTS + span)
                w = tl.load(taps + (dy * 3 + dx) * (INPUTS * OUTPUTS), (k < (3 - dx) * INPUTS)[:, None], 0.0)
                total = tl.dot(pixels, w, total, input_precision="ieee")
    return total


@triton.jit
def _keep(ring, row, value, M: tl.constexpr, C: tl.constexpr):
    """Put a row into its slot."""
    tl.store(_slot(ring, row, M, C) + C + _offsets(M, C), value.to(ring.dtype.element_ty))


@triton.jit
def _write(out, place, band, row, value, M: tl.constexpr, C: tl.constexpr, REACH: tl.constexpr):
    """Write the own lanes of a row of the result."""
    own = _inside(place[4], band[3], (row >= place[2]) & (row < place[3]), M, REACH)
    at = _at(row, place[4], place[0], band[0], band[3])
    tl.store(out + at * C + _offsets(M, C), value.to(out.dtype.element_ty), own)


@triton.jit
def _write_sums(
    partials,
    place,
    band,
    cells,
    row,
    value,
    M: tl.constexpr,
    C: tl.constexpr,
    REACH: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """Sums of a row of the result over the own columns of each cell: partials (B, rows, blocks, parts, C)."""
    c = tl.arange(0, C)
    mine = (row >= place[2]) & (row < place[3])
    own = _inside(place[4], band[3], mine, M, REACH)
    at = (place[0] * band[0] + row) * band[4] + place[1]
    if WINDOWS:
        cell, parts = cells[2], cells[4]
        first = (place[4] + REACH) // cell * cell
        for part in tl.range(parts, num_stages=1):
            lane = place[4] - first - part * cell + tl.arange(0, M)  # in the cell: 0 <= lane < cell
            here = lane.to(tl.uint32, bitcast=True) < cell.to(tl.uint32, bitcast=True)
            sums = tl.sum(tl.where(own & here[:, None], value, 0.0), 0)
            tl.store(partials + (at * parts + part) * C + c, sums, mine & (c < C))
    else:
        sums = tl.sum(tl.where(own, value, 0.0), 0)
        tl.store(partials + at * C + c, sums, mine & (c < C))


@triton.jit
def _finish_group(ring, skip, conv, place, band, row, M: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr):
    """r = conv(x') + skip, 0 outside the image. [M, C]"""
    inside = _in_image(place, band, row, M, 1)
    r = tl.load(skip + _read_at(place, band, row) * C + _offsets(M, C), inside, 0.0).to(tl.float32)
    return tl.where(inside, _convolve(ring, row, conv, M, C, C, TAPS) + r, 0.0)


@triton.jit
def _convolve_block(
    ring_x,
    ring_r,
    conv1,
    conv2,
    out,
    sums,
    place,
    band,
    cells,
    row,
    M: tl.constexpr,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    REACH: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """r = relu(conv1(x)) + x of this row, and z = conv2(r) of the second one above it, which is written and added up."""
    r = tl.maximum(_convolve(ring_x, row, conv1, M, C, C, TAPS), 0.0)
    r += tl.load(_slot(ring_x, row, M, C) + C + _offsets(M, C)).to(tl.float32)
    _keep(ring_r, row, tl.where(_in_image(place, band, row, M, REACH - 1), r, 0.0), M, C)

    row -= 2
    z = _convolve(ring_r, row, conv2, M, C, C, TAPS)
    _write(out, place, band, row, z, M, C, REACH)
    _write_sums(sums, place, band, cells, row, z, M, C, REACH, WINDOWS)


@triton.jit
def _normalised(image, normalisation, place, band, row, inside, M: tl.constexpr, C: tl.constexpr):
    """(image - mean) / std of a row, with C channels of which three are not zero; 0 outside the image. [M, C]"""
    c = tl.arange(0, C)[None, :]
    at = image + _read_at(place, band, row) * 3 + tl.arange(0, M)[:, None] * 3 + c
    rgb = tl.load(at, inside & (c < 3), 0.0)
    value = (rgb - tl.load(normalisation[0] + c, c < 3, 0.0)) / tl.load(normalisation[1] + c, c < 3, 1.0)
    return tl.where(inside & (c < 3), value, 0.0)
