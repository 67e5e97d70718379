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

Between levels the source is a product: for `down` four pixels of the finer map times [I, C] each; for `up` M / 2 pixels of
the coarser map times [I, 2 C], which are two pixels of the result beside each other, and those of the skip times [C, C].

Means over windows (famkern/engine/means.py): a lane interpolates its gates between the four corners of its cell, and a
program adds its columns cell by cell. A switch at compilation, so that one mean for all costs what it did.

    pieces      what kernels are made of            launch      checks, memory beside the maps
    blocks      the kernels of ordinary stages      calls       the operator, kind by kind
    pictures    ... that read a picture             tiles       how they are launched
    levels      ... from one level to another       measure     ... where that is measured

The contracts are those of famkern/ops/stage.py and famkern/ops/kinds.
"""

from .calls import stage
from .launch import workspace_bytes
from .tiles import TILES

__all__ = ["TILES", "stage", "workspace_bytes"]
