"""A network as a line of stages.

Every mean is a barrier over the whole image. Between two barriers stand two or three convolutions, which together
with the end of the block before make one stage:

    head   block  block  ... group  block  block ... group ... group  tail
    x z -> x z -> x z ->     r1 z -> x z -> ...      r2 z      r3     y
       |mean  |mean             |mean

The line is data. Each stage names the maps it reads and writes; no name is written twice, so a map's life runs from
its writer to its last reader and the plan can let maps share memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import formulas
from ..ops.block import block_stage
from ..ops.group import group_stage, last_group_stage
from ..ops.head import head_stage
from ..ops.tail import tail_stage

IMAGE = "image"
OUTPUT = "output"


@dataclass(frozen=True)
class Gate:
    """Channel attention between two stages: from means to one weight per channel, for each place that has means."""

    means: tuple[str, ...]  # maps whose means enter, side by side
    weights: tuple[Tensor, ...]  # float64
    dtype: torch.dtype  # of the arithmetic elsewhere

    def __call__(self, means: Mapping[str, Tensor]) -> Tensor:
        """The weights (1, Y, X, C) of channels from means (1, Y, X, C) in float64."""
        mean = torch.cat([means[name] for name in self.means], dim=3)
        # A few hundred multiplications a place: float64 costs nothing and the order of sums cannot show.
        return formulas.channel_attention(mean, *self.weights).to(self.dtype)


@dataclass(frozen=True)
class Stage:
    """One step of the line: an operator of famkern.ops with its weights and the names of its maps."""

    operator: Callable[..., None]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    sums: tuple[str, ...]  # maps among `writes` whose row sums it produces
    gate: Gate | None
    weights: tuple[Tensor, ...]
    convolutions: int  # 3x3 convolutions one after another: the reach in rows

    def halo(self, tile: int) -> int:
        """Rows needed above and below a band by kernels that compute `tile` rows at a time.

        The last convolution needs one row; each one before it is computed in whole tiles.
        """
        return 1 + (self.convolutions - 1) * tile


def lower(
    tensors: Mapping[str, Tensor],
    *,
    channels: int,
    groups: int,
    blocks: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> list[Stage]:
    """Turn a student's tensors into its line of stages.

    Args:
        tensors: state dict without normalisation layers, names as in the paper's code.
        channels, groups, blocks: the family's three numbers.
        mean, std: RGB normalisation of the picture.
        dtype: precision of the arithmetic, float32 or float64.
        device: where the stages run.
    """

    def get(*names: str) -> tuple[Tensor, ...]:
        parts = [tensors[f"{name}.{part}"] for name in names for part in ("weight", "bias")]
        return tuple(part.to(device=device, dtype=dtype).contiguous() for part in parts)

    def pointwise(*names: str) -> tuple[Tensor, ...]:
        return tuple(part.flatten(1) if part.dim() == 4 else part for part in get(*names))

    def convolutions(block: str) -> tuple[Tensor, ...]:
        return get(f"{block}.conv1", f"{block}.conv2")

    def pixel_weights(block: str) -> tuple[Tensor, ...]:
        return pointwise(f"{block}palayer.pa.0", f"{block}palayer.pa.2")

    def attention(means: tuple[str, ...], *names: str) -> Gate:
        return Gate(means, tuple(weight.double() for weight in pointwise(*names)), dtype)

    def gate(block: str, z: str) -> Gate:
        return attention((z,), f"{block}.calayer.ca.0", f"{block}.calayer.ca.2")

    normalisation = tuple(torch.tensor(values, dtype=dtype, device=device) for values in (mean, std))
    x, z = "x0", "z0"
    head_weights = (*normalisation, *get("pre.0"), *convolutions("g1.gp.0"))
    line = [Stage(head_stage, (IMAGE,), (x, z), (z,), None, head_weights, 3)]
    results = []
    for group in range(1, groups + 1):
        skip = x
        for b in range(1, blocks):
            before, block = f"g{group}.gp.{b - 1}", f"g{group}.gp.{b}"
            new_x, new_z = f"x{len(line)}", f"z{len(line)}"
            weights = (*pixel_weights(f"{before}."), *convolutions(block))
            line.append(Stage(block_stage, (x, z), (new_x, new_z), (new_z,), gate(before, z), weights, 2))
            x, z = new_x, new_z
        before = f"g{group}.gp.{blocks - 1}"
        new_x, new_z = f"x{len(line)}", f"z{len(line)}"
        weights = (*pixel_weights(f"{before}."), *get(f"g{group}.gp.{blocks}"))
        if group < groups:
            writes: tuple[str, ...] = (new_x, new_z)
            weights += convolutions(f"g{group + 1}.gp.0")
            line.append(Stage(group_stage, (x, z, skip), writes, writes, gate(before, z), weights, 3))
        else:
            writes = (new_x,)
            line.append(Stage(last_group_stage, (x, z, skip), writes, writes, gate(before, z), weights, 1))
        x, z = new_x, new_z
        results.append(x)
    tail_weights = (*normalisation, *pixel_weights(""), *get("post.0", "post.1"))
    tail_gate = attention(tuple(results), "ca.1", "ca.3")
    line.append(Stage(tail_stage, (IMAGE, *results), (OUTPUT,), (), tail_gate, tail_weights, 2))
    return line
