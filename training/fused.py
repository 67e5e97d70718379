"""Students that train on famkern's own operators.

FusedStudent and FusedUStudent compute what their network does, forward and backward, with `conv3x3` and `gate`; what else
there is, 1x1 convolutions and what joins the levels of a U, are matrix products over channels-last maps. The parameters
are the network's. On the CPU, in float32, that is several times faster than the module itself; elsewhere it is the same in
plain PyTorch. Everything runs in the parameters' precision, whatever the autocast, and channel attention sees the mean of
the whole picture, whatever the network's window: crops are not larger than that.

Hidden maps come out by the names of the modules that make them, "g2" or "e3", for losses between features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from famkern.models import Student, UStudent, ordinary
from famkern.models.u_student import apply_head
from famkern.ops import formulas
from famkern.ops.conv import conv3x3
from famkern.ops.gate import gate
from famkern.ops.kinds import up


class Fused(nn.Module):
    """What both families share: see FusedStudent and FusedUStudent, and `fused`, which chooses.

    Args:
        network: without batch normalisation, which would need the means between convolution and rectifier.

    Raises:
        ValueError: for a network with batch normalisation, or one whose modules compute something else than its family's.
    """

    def __init__(self, network: Student | UStudent) -> None:
        super().__init__()
        if network.norm is not None:
            raise ValueError(f"{type(self).__name__} takes a network with norm=None, not {network.norm!r}")
        ordinary.check_modules(network)
        self.network = network

    @overload
    def forward(self, image: Tensor) -> Tensor: ...
    @overload
    def forward(self, image: Tensor, hidden: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def forward(self, image: Tensor, hidden: Sequence[str] | None = None) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Normalised hazy RGB -> clear RGB, not yet clamped to [0, 1].

        Args:
            image: (B, 3, H, W).
            hidden: names of groups, such as "g2" or "e3", whose results are wanted too.

        Returns:
            (B, 3, H, W); with `hidden` also a dictionary of maps (B, C, rows, columns), each of its own level.

        Raises:
            ValueError: for a name that is no group of the network.
        """
        unknown = [name for name in hidden or () if name not in self.groups()]
        if unknown:
            raise ValueError(f"hidden maps are {', '.join(self.groups())}, not {', '.join(map(repr, unknown))}")
        with torch.autocast(image.device.type, enabled=False):
            maps: dict[str, Tensor] = {}
            output = self._forward(image, maps)
        if hidden is None:
            return output
        return output, {name: maps[name].permute(0, 3, 1, 2) for name in hidden}

    @abstractmethod
    def groups(self) -> list[str]:
        """Names of the groups, in the order in which they are computed."""

    @abstractmethod
    def _forward(self, image: Tensor, maps: dict[str, Tensor]) -> Tensor:
        """The output; leaves the maps of all groups, (B, rows, columns, C), in `maps`."""

    def _lift(self, image: Tensor) -> Tensor:
        """The first convolution: (B, 3, H, W) -> (B, H, W, C)."""
        pre: Any = self.network.pre[0]
        # Three channels are filled up to C, which costs less than a kernel of its own would save.
        C = pre.out_channels
        return conv3x3(F.pad(image.permute(0, 2, 3, 1), (0, C - 3)), _widen(pre.weight, C), pre.bias)[0]

    def _group(self, name: str, x: Tensor, maps: dict[str, Tensor]) -> Tensor:
        """A group's map, kept under its name."""
        group: Any = self.network.get_submodule(name)
        *blocks, conv = group.gp
        skip = x
        for block in blocks:
            x = _block(block, x)
        y, _ = conv3x3(x, conv.weight, conv.bias)
        maps[name] = y + skip
        return maps[name]


class FusedStudent(Fused):
    """The student on compiled operators."""

    network: Student

    def groups(self) -> list[str]:
        """Names of the groups, in the order in which they are computed."""
        return [f"g{i + 1}" for i in range(self.network.groups)]

    def _forward(self, image: Tensor, maps: dict[str, Tensor]) -> Tensor:
        student: Any = self.network
        post1, post2 = student.post
        x = self._lift(image)
        for name in self.groups():
            x = self._group(name, x, maps)
        means = torch.cat([x.mean(dim=(1, 2)) for x in maps.values()], 1)
        weights = formulas.channel_attention(means, *_matrices(student.ca[1], student.ca[3]))
        weighted: Any = sum(
            w[:, None, None] * r for w, r in zip(weights.chunk(student.groups, 1), maps.values(), strict=True)
        )
        o = gate(None, weighted, torch.ones_like(weighted[:, 0, 0]), *_pixel(student.palayer))
        o, _ = conv3x3(o, post1.weight, post1.bias)
        return _last(post2, o).permute(0, 3, 1, 2) + image


class FusedUStudent(Fused):
    """The U-shaped student on compiled operators."""

    network: UStudent

    def groups(self) -> list[str]:
        """Names of the groups, in the order in which they are computed."""
        levels = range(1, self.network.levels + 1)
        return [*(f"e{level}" for level in levels), *(f"d{level}" for level in reversed(levels[:-1]))]

    def _forward(self, image: Tensor, maps: dict[str, Tensor]) -> Tensor:
        module, levels = self.network.get_submodule, self.network.levels
        x = self._group("e1", self._lift(image), maps)
        for level in range(1, levels):
            x = self._group(f"e{level + 1}", _down(module(f"down{level}"), x), maps)
        for level in range(levels - 1, 0, -1):
            x = _up(module(f"up{level}"), module(f"fuse{level}"), x, maps[f"e{level}"])
            x = self._group(f"d{level}", x, maps)
        return apply_head(_last(self.network.post[0], x).permute(0, 3, 1, 2), image)


def fused(network: Student | UStudent) -> Fused:
    """The network on compiled operators."""
    return FusedUStudent(network) if isinstance(network, UStudent) else FusedStudent(network)


def _block(block: Any, x: Tensor) -> Tensor:
    r, _ = conv3x3(x, block.conv1.weight, block.conv1.bias, residual=True)
    z, mean = conv3x3(r, block.conv2.weight, block.conv2.bias)
    return gate(x, z, _channel(block.calayer, mean), *_pixel(block.palayer))


def _down(down: Any, x: Tensor) -> Tensor:
    """A 2x2 convolution of stride 2 as one matrix: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C')."""
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    patches = rearrange(x, "b (h r) (w c) k -> b h w (r c k)", r=2, c=2)
    return F.linear(patches, rearrange(down.weight, "o k r c -> o (r c k)"), down.bias)


def _up(convolution: Any, fuse: Any, x: Tensor, skip: Tensor) -> Tensor:
    """Enlarge x to the skip's size and fuse both: (B, rows, columns, C'), (B, H, W, C) -> (B, H, W, C)."""
    return up.join(x, skip, *up.compose(convolution.weight, convolution.bias, fuse.weight, fuse.bias))


def _last(post: Any, x: Tensor) -> Tensor:
    """The last convolution, C -> three or four channels, (B, H, W, ...)."""
    C, outputs = x.shape[3], post.out_channels
    return conv3x3(x, _widen(post.weight, C), F.pad(post.bias, (0, C - outputs)))[0][..., :outputs]


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
