"""A 3x3 convolution C -> C with what follows it in a block, for training.

    y = conv(x) + bias                     or, residual:   y = relu(conv(x) + bias) + x
    mean = mean of y over each image       for a channel gate

All of it by Winograd's F(4x4, 3x3): the input gradient is a convolution with the adjoint weights, the weight gradient
is made of transforms of both maps. Nothing but x and y is kept for the way back: where y equals x the rectifier is taken to
be closed, which is exact but for values that rounding lost in y. Source: `Block` of the student, arXiv 2207.11250;
Lavin and Gray, arXiv 1509.09308.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import formulas, route
from .library import LIBRARY, refuse_forward_mode

LIBRARY.define("conv3x3(Tensor x, Tensor weight, Tensor bias, bool residual) -> (Tensor y, Tensor mean)")
LIBRARY.define(
    "conv3x3_backward(Tensor? gradient, Tensor? mean_gradient, Tensor x, Tensor? y, Tensor weight, bool input_gradient)"
    " -> (Tensor, Tensor, Tensor)"
)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool = False) -> tuple[Tensor, Tensor]:
    """Convolve maps, with zero padding 1.

    Args:
        x: (B, H, W, C) floating point, H and W at least 1.
        weight: (C, C, 3, 3), of x's dtype.
        bias: (C,), likewise.
        residual: rectify, then add x.

    Returns:
        y: (B, H, W, C) and its mean over each image, (B, C).

    On the CPU, in float32, with 16, 32 or 64 channels this is one compiled operator, and the same bits come out whatever
    the number of threads; everything else runs on PyTorch. Gradients reach x, weight and bias; the compiled operator has no
    second derivative (RuntimeError).
    """
    if x.device.type != "cpu" or route.choose(x.device, x.shape[-1], x.dtype) is not route.COMPILED:
        return reference(x, weight, bias, residual=residual)
    refuse_forward_mode(x, weight, bias)
    y, mean = torch.ops.famkern.conv3x3(x.contiguous(), weight.contiguous(), bias.contiguous(), residual)
    return y, mean


def reference(x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool = False) -> tuple[Tensor, Tensor]:
    """`conv3x3` in plain PyTorch."""
    y = formulas.conv3x3(x, weight, bias)
    y = F.relu(y) + x if residual else y
    return y, y.mean(dim=(1, 2))


# ---- shapes ----------------------------------------------------------------------------------------------------------


@torch.library.register_fake("famkern::conv3x3", lib=LIBRARY)
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0], x.shape[3])


@torch.library.register_fake("famkern::conv3x3_backward", lib=LIBRARY)
def _(
    gradient: Tensor | None, mean_gradient: Tensor | None, x: Tensor, y: Tensor | None, weight: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, H, W, C = x.shape
    return x.new_empty(B if wanted else 0, H, W, C), torch.empty_like(weight), x.new_empty(C)


# ---- gradients -------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, residual = inputs
    ctx.save_for_backward(x, output[0] if residual else None, weight)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, mean_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
    x, y, weight = ctx.saved_tensors
    if gradient is None and mean_gradient is None:
        return None, None, None, None
    wanted = ctx.needs_input_grad[0]
    by_x, by_weight, by_bias = torch.ops.famkern.conv3x3_backward(
        None if gradient is None else gradient.contiguous(),
        None if mean_gradient is None else mean_gradient.contiguous(),
        *(x, y, weight, wanted),
    )
    return by_x if wanted else None, by_weight, by_bias, None


def refuse_second_derivative(_ctx: Any, *_grads: Tensor) -> None:
    """The backward of a backward operator."""
    raise RuntimeError("famkern's training operators have no second derivative; FAMKERN_REFERENCE=1 runs on PyTorch's")


torch.library.register_autograd("famkern::conv3x3", _backward, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("famkern::conv3x3_backward", refuse_second_derivative, lib=LIBRARY)
