"""What a kind of stage is: the row of the table that everything else about stages follows from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

# (maps, gate, weights, first_row) -> outputs, each on all rows that the maps have, halo included. Maps are in the precision
# of the weights; the gate, a tensor or None, is interpolated between the corners of cells, see formulas.interpolate.
Reference = Callable[[Sequence[Tensor], Any, Sequence[Tensor], int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operand:
    """A map that a stage reads: (B, rows, W, C) channels-last, or a picture, (B, rows, W, 3)."""

    name: str
    picture: bool = False  # RGB, in the dtype of the weights
    # Of its pixels, against those of the outputs: as many a side, twice as many, or half of them.
    scale: Literal["same", "fine", "coarse"] = "same"
    repeated: bool = False  # one or more of them


@dataclass(frozen=True)
class Kind:
    """One kind of stage."""

    name: str
    maps: tuple[Operand, ...]
    # Name -> shape, in the order of the operator's list: numbers, C channels of maps at the outputs' scale, H = C / 8
    # hidden ones of a pixel attention, I channels of a map at another scale, O outputs of the last convolution.
    weights: Mapping[str, str]
    outputs: tuple[str, ...]
    sums: tuple[str, ...]  # those outputs whose sums it produces
    convolutions: int  # 3x3 convolutions one after another: the reach in rows
    reference: Reference
    gated: bool = True  # whether it takes a gate, for as many channels as the maps of the outputs' scale have
    kernels: frozenset[str] = frozenset()  # backends that have it, beside the reference: "compiled", "triton", "cuda"

    @property
    def writes_picture(self) -> bool:
        """Whether its output is a picture, (B, rows, W, 3) in the dtype of the weights."""
        return self.outputs == ("y",)


def convolution(name: str, shape: str = "C C 3 3") -> dict[str, str]:
    """Weight and bias of a convolution (outputs, inputs, rows, columns)."""
    return {f"{name}.weight": shape, f"{name}.bias": shape.split()[0]}


NORMALISATION = {"mean": "3", "std": "3"}
PIXEL_ATTENTION = convolution("pixel1", "H C") | convolution("pixel2", "1 H")
BLOCK = convolution("conv1") | convolution("conv2")
EVERYWHERE = frozenset({"compiled", "triton", "cuda"})
