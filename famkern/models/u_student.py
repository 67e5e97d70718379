"""The U-shaped student: the student's groups at several scales, with a skip at each.

    picture  pre  e1 -------------------------------- fuse1  d1  post  picture       scale 1,   widths[0] channels
                    down1  e2 ---------- fuse2  d2  up1                              scale 1/2, widths[1]
                             down2  e3  up2                                          scale 1/4, widths[2]

e1, e2, ... and d1, d2, ... are groups as in the student (arXiv 2207.11250); the shape is that of U-Net (MICCAI 2015), the
head that of gUNet (arXiv 2209.11448): a gain K and an offset B for each pixel, with which haze is a linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..numeric import is_whole
from .student import Family, Group, conv3x3

Head = Literal["gain", "plain"]


class UStudent(Family):
    """The U-shaped family of dehazing networks.

    Level s = 1, 2, ... has ceil(H / 2^(s - 1)) x ceil(W / 2^(s - 1)) pixels. Going down, an odd side is filled up with one
    row or column of zeros at the bottom or right; coming up, what is too much is cropped.

    Args:
        widths: channels of each level, from the finest; multiples of 16 (16, 32 and 64 have compiled kernels). Two levels
            or more.
        blocks: blocks of each group, 1 or more, in the order e1, e2, ..., then up again ..., d2, d1: 2 levels - 1 counts.
        head: "gain": y = K x - B + x with one K and three B a pixel; "plain": y = o + x as in the student.
        norm: None, or "batch" for a batch normalisation after each convolution of the blocks; inference folds it into the
            convolutions.
        window: None: channel attention sees the mean of the whole picture; or the mean over so many rows and columns of
            the picture around each place, a multiple of 16 on the coarsest level too. It may be changed later.

    Raises:
        ValueError: for numbers outside these ranges.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (1, 2, 4, 2, 1),
        head: Head = "gain",
        norm: Literal["batch"] | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(norm)
        widths, blocks = tuple(widths), tuple(blocks)
        self.levels = len(widths)
        if self.levels < 2 or any(not is_whole(width) or width < 16 or width % 16 for width in widths):
            raise ValueError(f"UStudent(widths=...) takes two or more multiples of 16, not {widths}")
        if len(blocks) != 2 * self.levels - 1 or any(not is_whole(count) or count < 1 for count in blocks):
            raise ValueError(
                f"UStudent(blocks=...) takes {2 * self.levels - 1} counts of 1 or more for {self.levels} levels, "
                f"not {blocks}"
            )
        self.widths, self.blocks, self.head = tuple(map(int, widths)), tuple(map(int, blocks)), head
        if head not in ("gain", "plain"):
            raise ValueError(f'UStudent(head=...) takes "gain" or "plain", not {head!r}')
        self.pre = nn.Sequential(conv3x3(3, self.widths[0]))
        for level, (width, count) in enumerate(zip(self.widths, self.blocks, strict=False), start=1):
            self.add_module(f"e{level}", Group(width, count, norm))
        for level in range(1, self.levels):
            fine, coarse = self.widths[level - 1 : level + 1]
            self.add_module(f"down{level}", nn.Conv2d(fine, coarse, 2, stride=2))
            self.add_module(f"up{level}", nn.Conv2d(coarse, 4 * fine, 1))
            self.add_module(f"fuse{level}", nn.Conv2d(2 * fine, fine, 1))
            self.add_module(f"d{level}", Group(fine, self.blocks[-level], norm))
        self.post = nn.Sequential(conv3x3(self.widths[0], 4 if head == "gain" else 3))
        self.window = window

    def _scale_of(self, group: str) -> int:
        return int(2 ** (int(group[1:]) - 1))

    def extra_repr(self) -> str:
        """The arguments, for print(module)."""
        return f"widths={self.widths}, blocks={self.blocks}, head={self.head!r}" + self._options()

    def forward(self, image: Tensor) -> Tensor:
        """Normalised hazy RGB (B, 3, H, W) -> clear RGB (B, 3, H, W), not yet clamped to [0, 1]."""
        module = self.get_submodule
        skips: list[Tensor] = []
        x = module("e1")(self.pre(image))
        for level in range(1, self.levels):
            skips.append(x)
            x = module(f"e{level + 1}")(module(f"down{level}")(even_sides(x)))
        for level in range(self.levels - 1, 0, -1):
            skip = skips.pop()
            up = crop(F.pixel_shuffle(module(f"up{level}")(x), 2), *skip.shape[2:])
            x = module(f"d{level}")(module(f"fuse{level}")(torch.cat([up, skip], 1)))
        return apply_head(self.post(x), image)


def even_sides(x: Tensor) -> Tensor:
    """(B, C, H, W) with one row and one column of zeros more where a side is odd."""
    return F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) without what is right of `width` and below `height`."""
    # Not as a slice: an exported program could not see that the result has these sides, whatever the picture's.
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


def apply_head(o: Tensor, image: Tensor) -> Tensor:
    """What the last convolution's channels (B, 4 or 3, H, W) make of the normalised picture (B, 3, H, W)."""
    return o[:, :1] * image - o[:, 1:] + image if o.shape[1] == 4 else o + image
