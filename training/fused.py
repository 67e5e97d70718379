"""A student that trains on famkern's own operators."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famkern.models import Student
from famkern.models.student import Block, ChannelAttention, PixelAttention
from famkern.ops import formulas
from famkern.ops.conv import conv3x3
from famkern.ops.gate import gate


class FusedStudent(nn.Module):
    """Computes what `student` does, forward and backward, with `conv3x3` and `gate`; the parameters are the student's.

    On the CPU, in float32, that is several times faster than the module itself; elsewhere it is the same in plain
    PyTorch. It runs in the parameters' precision, whatever the autocast.

    Args:
        student: a student without batch normalisation, which would need the means between convolution and rectifier.

    Channel attention sees the mean of the whole picture, whatever the student's window: crops are not larger than that.

    Raises:
        ValueError: for a student with batch normalisation.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        if student.norm is not None:
            raise ValueError(f"FusedStudent takes a student with norm=None, not {student.norm!r}")
        self.student = student

    def forward(self, image: Tensor) -> Tensor:
        """Normalised hazy RGB (B, 3, H, W) -> clear RGB (B, 3, H, W), not yet clamped to [0, 1]."""
        with torch.autocast(image.device.type, enabled=False):
            return self._forward(image)

    def _forward(self, image: Tensor) -> Tensor:
        student: Any = self.student  # its modules, as what they are
        C = student.channels
        pre, post1, post2 = student.pre[0], *student.post
        # Three channels are filled up to C, which costs less than a kernel of its own would save.
        x, _ = conv3x3(F.pad(image.permute(0, 2, 3, 1), (0, C - 3)), _widen(pre.weight, C), pre.bias)
        results, means = [], []
        for i in range(student.groups):
            *blocks, conv = student.get_submodule(f"g{i + 1}").gp
            skip = x
            for block in blocks:
                x = _block(block, x)
            y, mean = conv3x3(x, conv.weight, conv.bias)
            x, mean = y + skip, mean + skip.mean(dim=(1, 2))
            results.append(x)
            means.append(mean)
        weights = formulas.channel_attention(torch.cat(means, 1), *_matrices(student.ca[1], student.ca[3]))
        weighted: Any = sum(w[:, None, None] * r for w, r in zip(weights.chunk(student.groups, 1), results, strict=True))
        o = gate(None, weighted, torch.ones_like(means[0]), *_pixel(student.palayer))
        o, _ = conv3x3(o, post1.weight, post1.bias)
        o, _ = conv3x3(o, _widen(post2.weight, C), F.pad(post2.bias, (0, C - 3)))
        return o[..., :3].permute(0, 3, 1, 2) + image


def _block(block: Any, x: Tensor) -> Tensor:
    r, _ = conv3x3(x, block.conv1.weight, block.conv1.bias, residual=True)
    z, mean = conv3x3(r, block.conv2.weight, block.conv2.bias)
    return gate(x, z, _channel(block.calayer, mean), *_pixel(block.palayer))


def _channel(attention: Any, mean: Tensor) -> Tensor:
    return formulas.channel_attention(mean, *_matrices(attention.ca[0], attention.ca[2]))


def _pixel(attention: Any) -> tuple[Tensor, ...]:
    return _matrices(attention.pa[0], attention.pa[2])


def _matrices(*convolutions: Any) -> tuple[Tensor, ...]:
    """Weights of 1x1 convolutions as matrices, with their biases."""
    return tuple(t for conv in convolutions for t in (conv.weight.flatten(1), conv.bias))


def _widen(weight: Tensor, channels: int) -> Tensor:
    """A 3x3 weight filled up with zeros to (channels, channels, 3, 3)."""
    outputs, inputs = weight.shape[:2]
    return F.pad(weight, (0, 0, 0, 0, 0, channels - inputs, 0, channels - outputs))
