"""The stages on the Triton kernels: `stage` takes what `famkern::stage` takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .blocks import _block, _group
from .launch import PICTURE, RGB, _expect, _Launch
from .levels import _down, _up
from .pictures import _head, _tail, _u_tail

Tensors = Sequence[Tensor]


def stage(
    kind: str,
    maps: Tensors,
    gate: Tensor | None,
    weights: Tensors,
    outputs: Tensors,
    sums: Tensors,
    place: Sequence[int],
) -> None:
    """Launch the kernels of a stage; arguments as in famkern/ops/stage.py."""
    CALLS[kind](maps, gate, weights, outputs, sums, place)


def _head_stage(
    maps: Tensors, _gate: None, weights: Tensors, outputs: Tensors, sums: Tensors, place: Sequence[int]
) -> None:
    (image,), (_, _, *convolutions) = maps, weights
    rings = PICTURE + 2 * outputs[0].shape[3]
    launch = _Launch(_head, outputs[0], [], outputs, sums, place, reach=3, rings=rings)
    launch(
        image,
        _pictures(launch, image, weights, outputs),
        launch.convolution(*convolutions[:2], inputs=PICTURE),
        launch.convolution(*convolutions[2:4]),
        launch.convolution(*convolutions[4:]),
        tuple(outputs),
        *launch.partials,
        PICTURE=PICTURE,
    )


def _block_stage(
    maps: Tensors, gate: Tensor, weights: Tensors, outputs: Tensors, sums: Tensors, place: Sequence[int]
) -> None:
    launch = _Launch(_block, outputs[0], maps, outputs, sums, place, gate, reach=2, rings=2 * maps[0].shape[3])
    launch(
        tuple(maps),
        launch.gate(gate),
        launch.attention(*weights[:4]),
        launch.convolution(*weights[4:6]),
        launch.convolution(*weights[6:]),
        tuple(outputs),
        *launch.partials,
    )


def _group_stage(
    maps: Tensors, gate: Tensor, weights: Tensors, outputs: Tensors, sums: Tensors, place: Sequence[int]
) -> None:
    """The end of a group, with the next block or without."""
    last = len(outputs) == 1
    reach = 1 if last else 3
    launch = _Launch(_group, outputs[0], maps, outputs, sums, place, gate, reach=reach, rings=reach * maps[0].shape[3])
    launch(
        tuple(maps),
        launch.gate(gate),
        launch.attention(*weights[:4]),
        launch.convolution(*weights[4:6]),
        *((None, None) if last else (launch.convolution(*weights[6:8]), launch.convolution(*weights[8:]))),
        (*outputs, *([None] * last)),
        *(*launch.partials, *([None] * last)),
        LAST=last,
    )


def _tail_stage(
    maps: Tensors, gate: Tensor, weights: Tensors, outputs: Tensors, _sums: Tensors, place: Sequence[int]
) -> None:
    (image, *groups), (_, _, *others) = maps, weights
    launch = _Launch(_tail, outputs[0], groups, [], [], place, gate, reach=2, rings=2 * groups[0].shape[3])
    normalisation = _pictures(launch, image, weights, outputs)
    launch(
        image,
        tuple(groups),
        launch.gate(gate, len(groups)),
        normalisation,
        launch.attention(*others[:4]),
        launch.convolution(*others[4:6]),
        launch.convolution(*others[6:], outputs=RGB),
        outputs[0],
        RGB=RGB,
    )


def _u_tail_stage(
    maps: Tensors, gate: Tensor, weights: Tensors, outputs: Tensors, _sums: Tensors, place: Sequence[int]
) -> None:
    (image, *group), (_, _, *others) = maps, weights
    launch = _Launch(_u_tail, outputs[0], group, [], [], place, gate, reach=2, rings=2 * group[0].shape[3])
    normalisation = _pictures(launch, image, weights, outputs)
    gain = others[6].shape[0] == 4
    post = (
        [tensor.roll(-1, 0) for tensor in others[6:]] if gain else others[6:]
    )  # the offsets, and the gain behind them
    launch(
        image,
        tuple(group),
        launch.gate(gate),
        normalisation,
        launch.attention(*others[:4]),
        launch.convolution(*others[4:6]),
        launch.convolution(*post, outputs=RGB),
        outputs[0],
        RGB=RGB,
        GAIN=gain,
    )


def _pictures(launch: _Launch, image: Tensor, weights: Tensors, outputs: Tensors) -> tuple[Tensor, Tensor]:
    """Check the picture that is read and, if there is one, that which is written: mean and standard deviation."""
    mean, std = weights[:2]
    _expect(launch.read_shape(3), torch.float32, image)
    _expect((launch.B, launch.rows, launch.width, 3), torch.float32, *(out for out in outputs if out.shape[3] == 3))
    _expect((3,), torch.float32, mean, std)
    return mean, std


def _down_stage(
    maps: Tensors, _gate: None, weights: Tensors, outputs: Tensors, sums: Tensors, place: Sequence[int]
) -> None:
    (fine,) = maps
    launch = _Launch(_down, outputs[0], [], outputs, sums, place, reach=2, rings=2 * outputs[0].shape[3])
    rows, width = launch.read_shape(0)[1:3]
    inputs = launch.other(fine, [*itertools.product((2 * rows - 1, 2 * rows), (2 * width - 1, 2 * width))])
    launch(
        fine,
        launch.convolution(*weights[:2], inputs=inputs, side=2),
        launch.convolution(*weights[2:4]),
        launch.convolution(*weights[4:]),
        tuple(outputs),
        *launch.partials,
        other=fine.shape[1:3],
        INPUTS=inputs,
    )


def _up_stage(
    maps: Tensors, _gate: None, weights: Tensors, outputs: Tensors, sums: Tensors, place: Sequence[int]
) -> None:
    (coarse, skip), (up, fuse, bias, *block) = maps, weights
    launch = _Launch(_up, outputs[0], [skip], outputs, sums, place, reach=2, rings=2 * skip.shape[3])
    first_row, (rows, width) = place[3], launch.read_shape(0)[1:3]
    inputs = launch.other(coarse, [((first_row + rows + 1) // 2 - first_row // 2, (width + 1) // 2)])
    C = launch.C
    _expect((4, C, inputs), torch.float32, up)
    _expect((C, C), torch.float32, fuse)
    _expect((4, C), torch.float32, bias)
    # Of even and odd rows: (2, inputs, 2 C), the last side for even and odd columns.
    by_rows = up.view(2, 2 * C, inputs).transpose(1, 2).to(launch.dtype).contiguous()
    launch(
        coarse,
        skip,
        (by_rows, bias),
        fuse.t().to(launch.dtype).contiguous(),
        launch.convolution(*block[:2]),
        launch.convolution(*block[2:]),
        tuple(outputs),
        *launch.partials,
        other=coarse.shape[1:3],
        INPUTS=inputs,
    )


CALLS: dict[str, Callable[..., None]] = {
    "head": _head_stage,
    "block": _block_stage,
    "group": _group_stage,
    "last_group": _group_stage,
    "tail": _tail_stage,
    "down": _down_stage,
    "up": _up_stage,
    "u_tail": _u_tail_stage,
}
