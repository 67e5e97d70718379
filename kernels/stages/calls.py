"""The stages on the Triton kernels: `stage` takes what `famkern::stage` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .launch import PICTURE, RGB, _expect, _Launch
from .programs import _block, _group, _head, _tail

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
    (image,), (mean, std, *convolutions) = maps, weights
    rings = PICTURE + 2 * outputs[0].shape[3]
    launch = _Launch(_head, outputs[0], [], outputs, sums, place, reach=3, rings=rings)
    _expect(launch.read_shape(3), torch.float32, image)
    _expect((3,), torch.float32, mean, std)
    launch(
        image,
        (mean, std),
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
    maps: Tensors, gate: Tensor, weights: Tensors, outputs: Tensors, sums: Tensors, place: Sequence[int]
) -> None:
    (image, *groups), (mean, std, *others), (out,) = maps, weights, outputs
    launch = _Launch(_tail, out, groups, [], sums, place, gate, reach=2, rings=2 * groups[0].shape[3])
    _expect(launch.read_shape(3), torch.float32, image)
    _expect((launch.B, launch.rows, launch.width, 3), torch.float32, out)
    _expect((3,), torch.float32, mean, std)
    launch(
        image,
        tuple(groups),
        launch.gate(gate, len(groups)),
        (mean, std),
        launch.attention(*others[:4]),
        launch.convolution(*others[4:6]),
        launch.convolution(*others[6:], outputs=RGB),
        out,
        RGB=RGB,
    )


CALLS: dict[str, Callable[..., None]] = {
    "head": _head_stage,
    "block": _block_stage,
    "group": _group_stage,
    "last_group": _group_stage,
    "tail": _tail_stage,
}
