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

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import formulas
from ..ops.kinds import KINDS

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
    """One step of the line: a kind of stage with its weights and the names of its maps."""

    kind: str  # out of famkern.ops.kinds.KINDS
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    gate: Gate | None
    weights: tuple[Tensor, ...]

    @property
    def sums(self) -> tuple[str, ...]:
        """Maps among `writes` whose sums it produces."""
        kind = KINDS[self.kind]
        return tuple(name for name, output in zip(self.writes, kind.outputs, strict=True) if output in kind.sums)

    @property
    def convolutions(self) -> int:
        """3x3 convolutions one after another: the reach in rows."""
        return KINDS[self.kind].convolutions

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
    line = [Stage("head", (IMAGE,), (x, z), None, head_weights)]
    results = []
    for group in range(1, groups + 1):
        skip = x
        for b in range(1, blocks):
            before, block = f"g{group}.gp.{b - 1}", f"g{group}.gp.{b}"
            new_x, new_z = f"x{len(line)}", f"z{len(line)}"
            weights = (*pixel_weights(f"{before}."), *convolutions(block))
            line.append(Stage("block", (x, z), (new_x, new_z), gate(before, z), weights))
            x, z = new_x, new_z
        before = f"g{group}.gp.{blocks - 1}"
        new_x, new_z = f"x{len(line)}", f"z{len(line)}"
        weights = (*pixel_weights(f"{before}."), *get(f"g{group}.gp.{blocks}"))
        if group < groups:
            writes: tuple[str, ...] = (new_x, new_z)
            weights += convolutions(f"g{group + 1}.gp.0")
            line.append(Stage("group", (x, z, skip), writes, gate(before, z), weights))
        else:
            writes = (new_x,)
            line.append(Stage("last_group", (x, z, skip), writes, gate(before, z), weights))
        x, z = new_x, new_z
        results.append(x)
    tail_weights = (*normalisation, *pixel_weights(""), *get("post.0", "post.1"))
    tail_gate = attention(tuple(results), "ca.1", "ca.3")
    line.append(Stage("tail", (IMAGE, *results), (OUTPUT,), tail_gate, tail_weights))
    return line
