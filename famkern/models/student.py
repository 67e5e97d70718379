"""The student family: the network that removes haze, as a plain module that trains anywhere.

Student(16, 3, 6) is the paper's student (arXiv 2207.11250), 96,007 parameters; Student(64, 3, 19) is FFA-Net (AAAI
2020), 4.456 M. Parameter names are those of both papers' public checkpoints.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..numeric import is_whole
from . import windows

IMAGE_MEAN = (0.64, 0.60, 0.58)  # RGB; the student sees (image - mean) / std
IMAGE_STD = (0.14, 0.15, 0.152)


def normalise(image: Tensor) -> Tensor:
    """(image - mean) / std for RGB images (..., 3, H, W) in [0, 1]: what the student takes."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (image - mean) / std


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """The convolution that all networks of the family are made of: (B, inputs, H, W) -> (B, outputs, H, W)."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _attention(channels: int, hidden: int, weights: int) -> list[nn.Module]:
    """Two 1x1 convolutions ending in `weights` numbers between 0 and 1."""
    return [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, weights, 1), nn.Sigmoid()]


class ChannelAttention(nn.Module):
    """One weight per channel, from its mean over the whole image or over windows of `window` pixels around each place."""

    window: int | None = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca = nn.Sequential(*_attention(channels, channels // 8, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * windows.interpolate(self.ca(windows.means(x, self.window)), self.window, *x.shape[2:])


class PixelAttention(nn.Module):
    """One weight per pixel, from its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pa = nn.Sequential(*_attention(channels, channels // 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.pa(x)


class Block(nn.Module):
    """Two convolutions, channel and pixel attention, two skips."""

    def __init__(self, channels: int, norm: Literal["batch"] | None) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.norm1 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.conv2 = conv3x3(channels, channels)
        self.norm2 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.calayer = ChannelAttention(channels)
        self.palayer = PixelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        r = F.relu(self.norm1(self.conv1(x))) + x
        return self.palayer(self.calayer(self.norm2(self.conv2(r)))) + x


class Group(nn.Module):
    """A row of blocks, a convolution and a skip around them ("Outer" in the paper)."""

    def __init__(self, channels: int, blocks: int, norm: Literal["batch"] | None) -> None:
        super().__init__()
        self.gp = nn.Sequential(*(Block(channels, norm) for _ in range(blocks)), conv3x3(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.gp(x) + x


class Family(nn.Module):
    """What all networks of the family have beside their shape.

    `scale_side` is the longer side, in pixels, of pictures that the weights are best at, for `Dehazer(scale="auto")`; None
    if that is not known.

    Args:
        norm: None, or "batch".

    Raises:
        ValueError: for another one.
    """

    scale_side: int | None = None
    levels = 1  # each with half the pixels a side of the one before

    def __init__(self, norm: Literal["batch"] | None) -> None:
        super().__init__()
        if norm not in (None, "batch"):
            raise ValueError(f'{type(self).__name__}(norm=...) takes None or "batch", not {norm!r}')
        self.norm = norm
        windows.keep_in_state_dict(self)

    @property
    def window(self) -> int | None:
        """Side in pixels of the windows whose means channel attention sees; None: the whole picture."""
        return self._window

    @window.setter
    def window(self, window: int | None) -> None:
        self._window = windows.check(window, self.levels)
        for name, group in self.named_children():
            if isinstance(group, Group):
                for module in group.modules():
                    if isinstance(module, ChannelAttention):
                        module.window = None if self._window is None else self._window // self._scale_of(name)

    def _scale_of(self, group: str) -> int:
        """Pixels of the picture along a side of one pixel of this group's maps."""
        return 1

    def _options(self) -> str:
        """What is not the default beside the shape, for print(module)."""
        given = {"norm": self.norm, "window": self.window}
        return "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)


class Student(Family):
    """The student family of dehazing networks.

    Args:
        channels: width C of all maps, a multiple of 16 (16, 32 and 64 have compiled kernels).
        groups: number of groups, 1 or more.
        blocks: number of blocks in each group, 1 or more.
        norm: None as in the paper, or "batch" for a batch normalisation after each convolution of the blocks;
            inference folds it into the convolutions.
        window: None: channel attention sees the mean of the whole picture, as in the paper; or a multiple of 16: the mean
            over so many rows and columns around each place, see `models.windows`. It may be changed later.

    Raises:
        ValueError: for numbers outside these ranges.
    """

    def __init__(
        self,
        channels: int = 16,
        groups: int = 3,
        blocks: int = 6,
        norm: Literal["batch"] | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(norm)
        if (
            not all(map(is_whole, (channels, groups, blocks)))
            or channels < 16
            or channels % 16
            or min(groups, blocks) < 1
        ):
            raise ValueError(
                "Student(channels, groups, blocks) takes a multiple of 16 and two counts of 1 or more, "
                f"not {channels}, {groups}, {blocks}"
            )
        self.channels, self.groups, self.blocks = int(channels), int(groups), int(blocks)
        self.pre = nn.Sequential(conv3x3(3, channels))
        for i in range(groups):
            self.add_module(f"g{i + 1}", Group(channels, blocks, norm))
        hidden = channels // 16
        # The papers' code takes the mean here, which leaves the first place of their checkpoints' names to it.
        self.ca = nn.Sequential(nn.Identity(), *_attention(groups * channels, hidden, groups * channels))
        self.palayer = PixelAttention(channels)
        self.post = nn.Sequential(conv3x3(channels, channels), conv3x3(channels, 3))
        self.window = window

    def extra_repr(self) -> str:
        """The arguments, for print(module)."""
        return f"channels={self.channels}, groups={self.groups}, blocks={self.blocks}" + self._options()

    def forward(self, image: Tensor) -> Tensor:
        """Normalised hazy RGB (B, 3, H, W) -> clear RGB (B, 3, H, W), not yet clamped to [0, 1]."""
        results = []
        x = self.pre(image)
        for i in range(self.groups):
            x = self.get_submodule(f"g{i + 1}")(x)
            results.append(x)
        means = windows.means(torch.cat(results, dim=1), self.window)
        weights = windows.interpolate(self.ca(means), self.window, *x.shape[2:]).chunk(self.groups, dim=1)
        o = sum(weight * result for weight, result in zip(weights, results, strict=True))
        return self.post(self.palayer(o)) + image


def fold_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A student's state dict with every batch normalisation folded into the convolution before it.

    In evaluation a normalisation is the affine map (y - mean) / sqrt(var + eps) * weight + bias of each channel, which a
    convolution can absorb. Tensors of a student without normalisation pass through unchanged.
    """
    folded = {name: tensor for name, tensor in tensors.items() if ".norm" not in name and name != "window"}
    for name in [name for name in tensors if name.endswith(("norm1.weight", "norm2.weight"))]:
        norm = name.removesuffix(".weight")
        conv = norm.replace(".norm", ".conv")
        weight, bias, mean, variance = (
            tensors[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / torch.sqrt(variance + nn.BatchNorm2d(1).eps)
        dtype = tensors[f"{conv}.weight"].dtype
        folded[f"{conv}.weight"] = (tensors[f"{conv}.weight"].double() * scale[:, None, None, None]).to(dtype)
        folded[f"{conv}.bias"] = ((tensors[f"{conv}.bias"].double() - mean) * scale + bias).to(dtype)
    return folded
