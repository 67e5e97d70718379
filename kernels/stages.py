"""Triton kernels of the network's stages, one launch a stage: maps are read once and written once.

A program owns a block of columns and a run of rows. It goes down the rows, one at each step, and does everything that
the stage does, each convolution two rows behind what it reads. What lies between stays in rings of four rows, a few
kilobytes of global memory that belong to the program alone and so never leave the caches:

    step t of a block stage                                      M lanes: own columns and a halo on both sides

    x, z (B,rows,W,C)   row t    x' = z g pa(z g) + x      -> ring X, x' out
    ring X              t-1..t-3 r = relu(conv1(x')) + x'  -> ring R, row t-2          0 outside the image
    ring R              t-3..t-5 z' = conv2(r)             -> z' out, row t-4, and its sums over the own columns

The slot that a step writes is none of those that it reads, so that one barrier a step orders everything, and the loads
of one row overlap the products of another. A run recomputes `convolutions` rows above and below and as many columns
beside it, which it reads from the L2 cache (its neighbours load them too).

A convolution is an implicit matrix product: in a ring the neighbours of a pixel along its row are consecutive numbers,
so a product has K = TAPS C: TAPS = 4 of them at once, the fourth with weights of zero, are a third as many products as
single taps at 16 channels. Half-precision operands, float32 sums, on tensor cores; float32 is float32.

The same bits whatever the band and the run: a pixel's arithmetic does not depend on the row, and column blocks are
anchored at the image's left. Sums of a row are float32 over a block, then float64 over blocks in a fixed order, without
atomics. Nothing waits for the host. Intermediates in rings are rounded to the maps' dtype.

The contracts are those of famkern/ops/{head,block,group,tail}.py.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ROWS = tl.constexpr(4)  # of a ring
MARGIN = tl.constexpr(8)  # columns of a ring beside the lanes: -1 and those that taps with zero weights read
CHANNELS = (16, 32, 64)
PICTURE = 4  # channels of a normalised picture in its ring: three and a zero
RGB = 16  # outputs of the last convolution: three, and zeros up to what a product has at least
SUM_BLOCKS = 32  # blocks of columns that `_sum` adds at a time
LEAST_RUN = 32  # rows; shorter runs would recompute more than a sixth of their own


@dataclass(frozen=True)
class Tile:
    """How the kernels of one width and precision are launched."""

    lanes: int  # M
    taps: int  # TAPS
    warps: int
    programs: int  # resident together on a multiprocessor
    block_programs: int  # of the block stage, whose kernel has fewer registers
    registers: int | None = None  # of a thread at most; the compiler's own choice may spill though there are more

    @property
    def options(self) -> dict[str, int | None]:
        """Of a launch. One stage deep: a load of the next step must not move before the barrier."""
        return {"num_warps": self.warps, "num_stages": 1, "maxnreg": self.registers}


# Chosen by what the compiler reports, without a measurement on a GPU: as many lanes as registers hold without spills, for
# the halo costs 4 of M columns in a block stage and 6 at a group's end; then as many programs as registers allow, to which
# tests/kernels holds them. Keys: channels, bytes of a map's number.
TILES = {
    (16, 2): Tile(lanes=128, taps=4, warps=4, programs=3, block_programs=4),
    (32, 2): Tile(lanes=64, taps=2, warps=4, programs=3, block_programs=4),
    (64, 2): Tile(lanes=64, taps=1, warps=4, programs=3, block_programs=3),
    (16, 4): Tile(lanes=128, taps=1, warps=8, programs=1, block_programs=3),
    (32, 4): Tile(lanes=64, taps=1, warps=4, programs=3, block_programs=3, registers=168),
    (64, 4): Tile(lanes=64, taps=1, warps=8, programs=1, block_programs=1, registers=255),
}


# ---- pieces of a stage -----------------------------------------------------------------------------------------------
#
# Maps are contiguous, and `begin` is the column of lane 0, which may lie left of the image.


@triton.jit
def _place(rows, blocks, run, M: tl.constexpr, REACH: tl.constexpr):
    """Program (block of columns and run of rows, image): the image, block, rows first..last, and `begin`."""
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
def _pixel_attention(v, weights, C: tl.constexpr):
    """v * sigmoid(W2 relu(W1 v + b1) + b2). [M, C]"""
    logit = tl.load(weights[3])
    for j in tl.static_range(C // 8):
        hidden = tl.sum(v * tl.load(weights[0] + j * C + tl.arange(0, C))[None, :], 1) + tl.load(weights[1] + j)
        logit += tl.maximum(hidden, 0.0) * tl.load(weights[2] + j)
    return v * tl.sigmoid(logit)[:, None]


@triton.jit
def _finish_block(x, z, gate, weights, at, inside, M: tl.constexpr, C: tl.constexpr):
    """x' = z g * pa(z g) + x of one row; 0 outside the image, where x and z are. [M, C]"""
    index = at * C + _offsets(M, C)
    gated = tl.load(z + index, inside, 0.0).to(tl.float32) * tl.load(gate + tl.arange(0, C))[None, :]
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
def _residual(ring, row, weights, inside, M: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr):
    """r = relu(conv(x)) + x of a row of a ring, 0 outside the image. [M, C] float32"""
    r = tl.maximum(_convolve(ring, row, weights, M, C, C, TAPS), 0.0)
    r += tl.load(_slot(ring, row, M, C) + C + _offsets(M, C)).to(tl.float32)
    return tl.where(inside, r, 0.0)


@triton.jit
def _keep(ring, row, value, M: tl.constexpr, C: tl.constexpr):
    """Write a row into its slot."""
    tl.store(_slot(ring, row, M, C) + C + _offsets(M, C), value.to(ring.dtype.element_ty))


@triton.jit
def _write(out, at, value, own, M: tl.constexpr, C: tl.constexpr):
    """Write a row of the result."""
    tl.store(out + at * C + _offsets(M, C), value.to(out.dtype.element_ty), own)


@triton.jit
def _write_sums(partials, value, own, condition, row, block, image, rows, blocks, C: tl.constexpr):
    """Sums of a row of the result over the own columns: partials (B, rows, blocks, C)."""
    c = tl.arange(0, C)
    sums = tl.sum(tl.where(own, value, 0.0), 0)
    tl.store(partials + ((image * rows + row) * blocks + block) * C + c, sums, condition & (c < C))


@triton.jit
def _normalised(image, mean, std, at, inside, M: tl.constexpr, C: tl.constexpr):
    """(image - mean) / std of a row, with C channels of which three are not zero; 0 outside the image. [M, C]"""
    c = tl.arange(0, C)[None, :]
    rgb = tl.load(image + at * 3 + tl.arange(0, M)[:, None] * 3 + c, inside & (c < 3), 0.0)
    value = (rgb - tl.load(mean + c, c < 3, 0.0)) / tl.load(std + c, c < 3, 1.0)
    return tl.where(inside & (c < 3), value, 0.0)


# ---- stages ----------------------------------------------------------------------------------------------------------
#
# `rows` are those of the results; the maps that are read have `top` more above and `bottom` below. Row numbers count
# from the first result: the rows that exist are -top <= row < rows + bottom.

# Sizes say nothing about the code: one compilation, one arithmetic.
_SIZES = ["rows", "top", "bottom", "width", "blocks", "run"]


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
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    PICTURE: tl.constexpr,
):
    """x = pre((image - mean) / std), z = conv2(relu(conv1(x)) + x)."""
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
        _write_sums(z_sums, z, own, row >= first, row, block, index, rows, blocks, C)
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
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
):
    """x' = z g * pa(z g) + x, z' = conv2(relu(conv1(x')) + x')."""
    image, block, first, last, begin = _place(rows, blocks, run, M, 2)
    memory = _memory(scratch, M, 2 * C)
    ring_x = _ring(memory, 0, M, C)
    ring_r = _ring(memory, C, M, C)
    for step in tl.range(0, last - first + 6, num_stages=1):
        row = first - 2 + step
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 0)
        at = _at(row + top, begin, image, top + rows + bottom, width)
        x = _finish_block(maps[0], maps[1], gate + image * C, attention, at, inside, M, C)
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
        _write_sums(z_sums, z, own, row >= first, row, block, image, rows, blocks, C)
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
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    LAST: tl.constexpr,
):
    """r = conv(z g * pa(z g) + x) + skip and, unless LAST, z' = conv2(relu(conv1(r)) + r)."""
    REACH: tl.constexpr = 1 if LAST else 3
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
        x = _finish_block(maps[0], maps[1], gate + image * C, attention, at, inside, M, C)
        _keep(ring_x, row, x, M, C)

        row -= 2
        inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 1)
        at = _at(row + top, begin, image, top + rows + bottom, width)
        skip = tl.load(maps[2] + at * C + _offsets(M, C), inside, 0.0).to(tl.float32)
        r = tl.where(inside, _convolve(ring_x, row, conv, M, C, C, TAPS) + skip, 0.0)
        mine = (row >= first) & (row < last)
        own = _inside(begin, width, mine, M, REACH)
        _write(outputs[0], _at(row, begin, image, rows, width), r, own, M, C)
        _write_sums(r_sums, r, own, mine, row, block, image, rows, blocks, C)

        if not LAST:
            _keep(ring_g, row, r, M, C)

            row -= 2
            inside = _inside(begin, width, (row >= -top) & (row < rows + bottom), M, 2)
            _keep(ring_r, row, _residual(ring_g, row, conv1, inside, M, C, TAPS), M, C)

            row -= 2
            own = _inside(begin, width, row >= first, M, 3)
            z = _convolve(ring_r, row, conv2, M, C, C, TAPS)
            _write(outputs[1], _at(row, begin, image, rows, width), z, own, M, C)
            _write_sums(z_sums, z, own, row >= first, row, block, image, rows, blocks, C)
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
    C: tl.constexpr,
    M: tl.constexpr,
    TAPS: tl.constexpr,
    RGB: tl.constexpr,
):
    """o = sum of w[i] r_i, y = clamp(post2(post1(o * pa(o))) + (image - mean) / std, 0, 1); post2 has RGB outputs."""
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
            share = tl.load(gate + (index * len(groups) + i) * C + tl.arange(0, C))
            o += tl.load(groups[i] + at * C + _offsets(M, C), inside, 0.0).to(tl.float32) * share[None, :]
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


@triton.jit(do_not_specialize=["blocks"])
def _sum(partials, sums, blocks, C: tl.constexpr, BLOCKS: tl.constexpr):
    """Program (row of an image): partials (rows, blocks, C) float32 -> sums (rows, C) float64."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C)
    total = tl.zeros((C,), tl.float64)
    for at in tl.range(0, blocks, BLOCKS):
        block = at + tl.arange(0, BLOCKS)[:, None]
        part = tl.load(partials + (row * blocks + block) * C + c[None, :], block < blocks, 0.0)
        total += tl.sum(part.to(tl.float64), 0)
    tl.store(sums + row * C + c, total)


# ---- launches --------------------------------------------------------------------------------------------------------


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
        weight: (C, C, 3, 3), of a convolution of the stage.
        picture: (B, rows, width, any), a result.
        maps: read, (B, top + rows + bottom, width, C).
        outputs: maps that are written, (B, rows, width, C).
        sums: (B, rows, 1, C).
        cell: columns over which sums are taken: the width or more.
        reach: rows and columns around a pixel that it depends on.
        rings: sum of their channels.

    Raises:
        RuntimeError: for what the kernels do not have, and for tensors that do not fit each other.
    """

    def __init__(
        self,
        kernel: Any,
        weight: Tensor,
        picture: Tensor,
        maps: Sequence[Tensor],
        outputs: Sequence[Tensor],
        sums: Sequence[Tensor],
        top: int,
        bottom: int,
        cell: int,
        *,
        reach: int,
        rings: int,
    ) -> None:
        self.kernel = kernel
        self.B, self.rows, self.width, _ = picture.shape
        self.C, self.top, self.bottom = weight.shape[0], top, bottom
        self.dtype = (*maps, *outputs)[0].dtype
        if self.C not in CHANNELS or self.dtype not in DTYPES:
            raise RuntimeError(
                f"maps of 16, 32 or 64 channels in float16, bfloat16 or float32 expected, not {self.C} in {self.dtype}"
            )
        _expect(self.read_shape(self.C), self.dtype, *maps)
        _expect((self.B, self.rows, self.width, self.C), self.dtype, *outputs)
        if cell < self.width:
            raise RuntimeError(f"sums over all {self.width} columns expected, not over cells of {cell}")
        _expect((self.B, self.rows, 1, self.C), torch.float64, *sums)
        self.tile = TILES[self.C, self.dtype.itemsize]
        self.blocks = triton.cdiv(self.width, self.tile.lanes - 2 * reach)
        programs = self.tile.block_programs if kernel is _block else self.tile.programs
        runs = max(1, _multiprocessors(picture.device) * programs // (self.blocks * self.B))  # all run at the same time
        self.run = max(LEAST_RUN, triton.cdiv(self.rows, runs))
        self.grid = (self.blocks * triton.cdiv(self.rows, self.run), self.B)
        size = math.prod(self.grid) * ROWS.value * (self.tile.lanes + MARGIN.value) * rings
        self.scratch = picture.new_empty(size, dtype=self.dtype)
        self.sums = sums
        # Of each block of columns, float32.
        self.partials = [picture.new_empty((self.B, self.rows, self.blocks, self.C), dtype=torch.float32) for _ in sums]

    def read_shape(self, channels: int) -> tuple[int, int, int, int]:
        """Of what is read, halo included."""
        return self.B, self.top + self.rows + self.bottom, self.width, channels

    def convolution(self, weight: Tensor, bias: Tensor, *, inputs: int = 0, outputs: int = 0) -> tuple[Tensor, Tensor]:
        """Weights (C, C, 3, 3) tap by tap, [3, 3, C, C] in the maps' dtype, and bias (C,).

        With other numbers of `inputs` or `outputs` than C the weights may have fewer, and the rest is zero.
        """
        shape = (3, 3, inputs or self.C, outputs or self.C)
        o = weight.shape[0] if outputs else self.C
        i = weight.shape[1] if inputs else self.C
        _expect((o, i, 3, 3), torch.float32, weight)
        _expect((o,), torch.float32, bias)
        packed = (weight.new_zeros if inputs or outputs else weight.new_empty)(shape, dtype=self.dtype)
        packed[:, :, :i, :o].copy_(weight.permute(2, 3, 1, 0))
        return packed, torch.nn.functional.pad(bias, (0, shape[3] - o)) if outputs else bias

    def attention(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """Of pixels: (C/8, C), (C/8,), (1, C/8), (1,)."""
        hidden = self.C // 8
        for weight, shape in zip(weights, ((hidden, self.C), (hidden,), (1, hidden), (1,)), strict=True):
            _expect(shape, torch.float32, weight)
        return weights

    def gate(self, gate: Tensor, groups: int = 1) -> Tensor:
        """Of channels: (B, 1, 1, groups C)."""
        _expect((self.B, 1, 1, groups * self.C), torch.float32, gate)
        return gate

    def __call__(self, *arguments: Any, **constants: int) -> None:
        """Run the kernel, and add up the sums of each row over its blocks."""
        sizes = (self.rows, self.top, self.bottom, self.width, self.blocks, self.run)
        tile = {"C": self.C, "M": self.tile.lanes, "TAPS": self.tile.taps}
        with _on(self.scratch):
            self.kernel[self.grid](*arguments, self.scratch, *sizes, **tile, **constants, **self.tile.options)
            for partials, sums in zip(self.partials, self.sums, strict=True):
                _sum[(self.B * self.rows,)](partials, sums, self.blocks, C=self.C, BLOCKS=SUM_BLOCKS, num_warps=1)


def head_stage(
    image: Tensor,
    mean: Tensor,
    std: Tensor,
    pre_weight: Tensor,
    pre_bias: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    out_x: Tensor,
    out_z: Tensor,
    z_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
) -> None:
    """`famkern::head_stage`."""
    rings = PICTURE + 2 * conv1_weight.shape[0]
    launch = _Launch(_head, conv1_weight, out_x, [], [out_x, out_z], [z_sums], top, bottom, cell, reach=3, rings=rings)
    _expect(launch.read_shape(3), torch.float32, image)
    _expect((3,), torch.float32, mean, std)
    launch(
        image,
        (mean, std),
        launch.convolution(pre_weight, pre_bias, inputs=PICTURE),
        launch.convolution(conv1_weight, conv1_bias),
        launch.convolution(conv2_weight, conv2_bias),
        (out_x, out_z),
        *launch.partials,
        PICTURE=PICTURE,
    )


def block_stage(
    x: Tensor,
    z: Tensor,
    gate: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    out_x: Tensor,
    out_z: Tensor,
    z_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """`famkern::block_stage`."""
    rings = 2 * conv1_weight.shape[0]
    launch = _Launch(
        _block, conv1_weight, out_x, [x, z], [out_x, out_z], [z_sums], top, bottom, cell, reach=2, rings=rings
    )
    launch(
        (x, z),
        launch.gate(gate),
        launch.attention(pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2),
        launch.convolution(conv1_weight, conv1_bias),
        launch.convolution(conv2_weight, conv2_bias),
        (out_x, out_z),
        *launch.partials,
    )


def group_stage(
    x: Tensor,
    z: Tensor,
    skip: Tensor,
    gate: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    out_r: Tensor,
    out_z: Tensor,
    r_sums: Tensor,
    z_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """`famkern::group_stage`."""
    rings, outputs, sums = 3 * conv_weight.shape[0], [out_r, out_z], [r_sums, z_sums]
    launch = _Launch(_group, conv_weight, out_r, [x, z, skip], outputs, sums, top, bottom, cell, reach=3, rings=rings)
    launch(
        (x, z, skip),
        launch.gate(gate),
        launch.attention(pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2),
        launch.convolution(conv_weight, conv_bias),
        launch.convolution(conv1_weight, conv1_bias),
        launch.convolution(conv2_weight, conv2_bias),
        (out_r, out_z),
        *launch.partials,
        LAST=False,
    )


def last_group_stage(
    x: Tensor,
    z: Tensor,
    skip: Tensor,
    gate: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    out_r: Tensor,
    r_sums: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """`famkern::last_group_stage`."""
    rings = conv_weight.shape[0]
    launch = _Launch(
        _group, conv_weight, out_r, [x, z, skip], [out_r], [r_sums], top, bottom, cell, reach=1, rings=rings
    )
    conv = launch.convolution(conv_weight, conv_bias)
    launch(
        (x, z, skip),
        launch.gate(gate),
        launch.attention(pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2),
        *(conv, None, None),
        (out_r, None),
        *(*launch.partials, None),
        LAST=True,
    )


def tail_stage(
    image: Tensor,
    groups: Sequence[Tensor],
    gate: Tensor,
    mean: Tensor,
    std: Tensor,
    pixel_weight1: Tensor,
    pixel_bias1: Tensor,
    pixel_weight2: Tensor,
    pixel_bias2: Tensor,
    post1_weight: Tensor,
    post1_bias: Tensor,
    post2_weight: Tensor,
    post2_bias: Tensor,
    out: Tensor,
    top: int,
    bottom: int,
    cell: int,
    first_row: int,
) -> None:
    """`famkern::tail_stage`."""
    launch = _Launch(
        _tail, post1_weight, out, groups, [], [], top, bottom, cell, reach=2, rings=2 * post1_weight.shape[0]
    )
    _expect(launch.read_shape(3), torch.float32, image)
    _expect((launch.B, launch.rows, launch.width, 3), torch.float32, out)
    _expect((3,), torch.float32, mean, std)
    launch(
        image,
        tuple(groups),
        launch.gate(gate, len(groups)),
        (mean, std),
        launch.attention(pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2),
        launch.convolution(post1_weight, post1_bias),
        launch.convolution(post2_weight, post2_bias, outputs=RGB),
        out,
        RGB=RGB,
    )


def workspace_bytes(rows: int, width: int, channels: int, device: torch.device) -> int:
    """Bytes that a stage allocates at most for a band of `rows` rows, halo included, in the costliest dtype."""
    most = 0
    for (C, itemsize), tile in TILES.items():
        if channels == C:
            blocks = triton.cdiv(width, tile.lanes - 2 * 3)
            at_once = _multiprocessors(device) * max(tile.programs, tile.block_programs)
            programs = max(blocks, min(at_once, blocks * triton.cdiv(rows, LEAST_RUN)))
            rings = programs * ROWS.value * (tile.lanes + MARGIN.value) * 3 * C * itemsize  # of a group stage
            sums = 2 * rows * blocks * C * 4
            most = max(most, rings + sums)
    return most + 4 * 9 * channels**2 * 4  # weights
