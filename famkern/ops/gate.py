"""The end of a block, for training: channel gate, pixel attention, skip, in one pass.

    u   = z gate                                      gate: one weight per image and channel
    out = u sigmoid(W2 relu(W1 u + b1) + b2) + x      the sigmoid: one weight per pixel

The way back is one pass too and keeps nothing but z: what the forward pass found is computed again. Source: `Block` of the
student, arXiv 2207.11250.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import formulas, route
from .conv import refuse_second_derivative
from .library import LIBRARY, refuse_forward_mode

LIBRARY.define(
    "gate(Tensor? x, Tensor z, Tensor gate, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2) -> Tensor"
)
LIBRARY.define(
    "gate_backward(Tensor gradient, Tensor z, Tensor gate, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def gate(
    x: Tensor | None, z: Tensor, gate: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """Weight the channels of z, then its pixels, and add x.

    Args:
        x: (B, H, W, C) or None for zero.
        z: (B, H, W, C) floating point.
        gate: (B, C), of z's dtype, as the others.
        weight1, bias1, weight2, bias2: pixel attention (C/8, C), (C/8,), (1, C/8), (1,).

    Returns:
        (B, H, W, C).

    Routes, bits and derivatives as `conv3x3`; gradients reach every argument.
    """
    if z.device.type != "cpu" or route.choose(z.device, z.shape[-1], z.dtype) is not route.COMPILED:
        return reference(x, z, gate, weight1, bias1, weight2, bias2)
    refuse_forward_mode(x, z, gate, weight1, bias1, weight2, bias2)
    arguments = (None if t is None else t.contiguous() for t in (x, z, gate, weight1, bias1, weight2, bias2))
    return torch.ops.famkern.gate(*arguments)


def reference(x: Tensor | None, z: Tensor, gate: Tensor, *pixel_weights: Tensor) -> Tensor:
    """`gate` in plain PyTorch."""
    return formulas.finish_block(torch.zeros_like(z) if x is None else x, z, gate[:, None, None, :], *pixel_weights)


@torch.library.register_fake("famkern::gate", lib=LIBRARY)
def _(x: Tensor | None, z: Tensor, *weights: Tensor) -> Tensor:
    return torch.empty_like(z)


@torch.library.register_fake("famkern::gate_backward", lib=LIBRARY)
def _(gradient: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor) for tensor in given)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.famkern.gate_backward(gradient.contiguous(), *ctx.saved_tensors)
    return gradient if ctx.needs_input_grad[0] else None, *gradients


torch.library.register_autograd("famkern::gate", _backward, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("famkern::gate_backward", refuse_second_derivative, lib=LIBRARY)
