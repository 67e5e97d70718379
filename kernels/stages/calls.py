"""The stage operators on the Triton kernels; arguments as in famkern/ops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .launch import PICTURE, RGB, _expect, _Launch
from .programs import _block, _group, _head, _tail


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
    rings, place = 2 * conv1_weight.shape[0], (top, bottom, cell, first_row, gate)
    launch = _Launch(_block, conv1_weight, out_x, [x, z], [out_x, out_z], [z_sums], *place, reach=2, rings=rings)
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
    place = (top, bottom, cell, first_row, gate)
    launch = _Launch(_group, conv_weight, out_r, [x, z, skip], outputs, sums, *place, reach=3, rings=rings)
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
    place = (top, bottom, cell, first_row, gate)
    launch = _Launch(_group, conv_weight, out_r, [x, z, skip], [out_r], [r_sums], *place, reach=1, rings=rings)
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
    rings, place = 2 * post1_weight.shape[0], (top, bottom, cell, first_row, gate)
    launch = _Launch(_tail, post1_weight, out, groups, [], [], *place, reach=2, rings=rings)
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
