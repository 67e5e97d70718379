"""The teacher: a x2 super-resolution network whose features guide the student while it trains.

DSC-FSRCNN (arXiv 2207.11250): FSRCNN with depthwise separable convolutions in its middle, one network per colour
channel. Parameter names are those of the paper's public code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..numeric import is_whole


class DepthwiseSeparableConv(nn.Module):
    """A depthwise k x k convolution, then a 1x1 convolution across channels, both with bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.pointwise(self.depthwise(x))


class DSCFSRCNN(nn.Module):
    """Super-resolution of one colour channel.

    Args:
        scale: the factor by which height and width grow, 2 or more.
    """

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.first_part = nn.Sequential(nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56))
        mapping: list[nn.Module] = []
        for _ in range(4):
            mapping += [DepthwiseSeparableConv(12, 12, 3), nn.PReLU(12)]
        self.mid_part = nn.Sequential(
            DepthwiseSeparableConv(56, 12, 1),
            nn.PReLU(12),
            *mapping,
            DepthwiseSeparableConv(12, 56, 1),
            nn.PReLU(56),
        )
        self.last_part = nn.ConvTranspose2d(56, 1, 9, stride=scale, padding=4, output_padding=scale - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1, H, W) -> features (B, 56, H, W) of the first and of the middle part, and (B, 1, scale H, scale W)."""
        first = self.first_part(x)
        mid = self.mid_part(first)
        return first, mid, self.last_part(mid)


class Teacher(nn.Module):
    """Three DSC-FSRCNN networks, one for each of R, G and B.

    Args:
        scale: the factor by which height and width grow, 2 or more; the paper's teacher has 2.

    Raises:
        ValueError: if `scale` is below 2.
    """

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        if not is_whole(scale) or scale < 2:
            raise ValueError(f"Teacher(scale=...) takes 2 or more, not {scale}")
        self.scale = scale
        self.red, self.green, self.blue = DSCFSRCNN(scale), DSCFSRCNN(scale), DSCFSRCNN(scale)

    def forward(self, image: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> RGB (B, 3, scale H, scale W), not clamped."""
        networks = (self.red, self.green, self.blue)
        return torch.cat([net(channel)[2] for net, channel in zip(networks, image.split(1, dim=1), strict=True)], dim=1)
