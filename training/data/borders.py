"""Pictures larger than their partners by a border, as the clear ones of SOTS indoor are: 640 x 480 beside 620 x 460.

The rule, for training and evaluation alike: where one is larger than the other by the same even number of pixels in height
and width, at most a tenth of its shorter side, half of that is cropped from each of its sides. Pictures that differ in
another way are not of one view.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from famkern import images


def border(path: Path, size: Sequence[int], partner: Path, other: Sequence[int]) -> int:
    """Pixels that the partner has more than the picture at each of its sides; fewer, if negative.

    Args:
        path: of the picture.
        size: height and width, and perhaps more, of the picture.
        partner: path of the other one.
        other: its height and width.

    Raises:
        ImageError: (a ValueError) if they are not of one view.
    """
    more = other[0] - size[0]
    shorter = max(min(size[:2]), min(other[:2]))  # side of the larger one
    if more != other[1] - size[1] or more % 2 or 10 * abs(more) > shorter:
        raise images.ImageError(
            images.printable(
                f"{path}: {size[1]} x {size[0]} pixels, but its partner {partner} has {other[1]} x {other[0]}; "
                "crop them to the same view first"
            )
        )
    return more // 2


def inside(border: int) -> slice:
    """What of a side is left without so many pixels at both ends; all for a border that is not above 0."""
    return slice(border, -border) if border > 0 else slice(None)
