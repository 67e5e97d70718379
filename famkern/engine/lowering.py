"""From a network's tensors to its line of stages; what the network is, its tensors' names and shapes say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..ops.kinds import KINDS, up
from .line import IMAGE, OUTPUT, Gate, Line, Map, Stage


def lower(
    tensors: Mapping[str, Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    maps: torch.dtype,
    device: torch.device,
) -> Line:
    """Turn the tensors of a student, or of a U-shaped one, into its line of stages.

    Args:
        tensors: state dict without normalisation layers, names as in `famkern.models`.
        mean, std: RGB normalisation of the picture.
        dtype: precision of the arithmetic, float32 or float64.
        maps: precision of the maps.
        device: where the stages run.
    """
    line = _Lowering(tensors, (mean, std), dtype, maps, device)
    (_lower_u if "down1.weight" in tensors else _lower_student)(line)
    return Line(tuple(line.stages), line.maps)


def _lower_student(line: _Lowering) -> None:
    groups = line.count("g{}.gp.0.conv1.weight", 1)
    x, z = line.head("g1")
    results = []
    for group in range(1, groups + 1):
        skip = x
        x, z = line.blocks(f"g{group}", x, z)
        gate, weights = line.end_of_group(f"g{group}", z)
        if group < groups:
            x, z = line.add("group", (x, z, skip), gate, (*weights, *line.convolutions(f"g{group + 1}.gp.0")))
        else:
            (x,) = line.add("last_group", (x, z, skip), gate, weights)
        results.append(x)
    weights = (*line.normalisation, *line.pixel_attention(""), *line.get("post.0", "post.1"))
    line.add("tail", (IMAGE, *results), line.gate(results, "ca.1", "ca.3"), weights)


def _lower_u(line: _Lowering) -> None:
    levels = line.count("down{}.weight", 1) + 1
    x, z = line.head("e1")
    skips = []
    for level in range(1, levels + 1):
        a = line.group(f"e{level}", x, z)
        if level < levels:
            skips.append(a)
            weights = (*line.get(f"down{level}"), *line.convolutions(f"e{level + 1}.gp.0"))
            x, z = line.add("down", (a,), None, weights, scale=2**level)
    for level in range(levels - 1, 0, -1):
        weights = (*line.fused(level), *line.convolutions(f"d{level}.gp.0"))
        x, z = line.add("up", (a, skips.pop()), None, weights, scale=2 ** (level - 1))
        if level > 1:
            a = line.group(f"d{level}", x, z)
    skip = x
    x, z = line.blocks("d1", x, z)
    gate, weights = line.end_of_group("d1", z)
    line.add("u_tail", (IMAGE, x, z, skip), gate, (*line.normalisation, *weights, *line.get("post.0")))


class _Lowering:
    """A line that grows, and the tensors that it is made of.

    Args:
        tensors, dtype, maps, device: as `lower` has them.
        normalisation: mean and standard deviation of the picture.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        normalisation: tuple[Sequence[float], Sequence[float]],
        dtype: torch.dtype,
        maps: torch.dtype,
        device: torch.device,
    ) -> None:
        self.tensors, self.dtype, self.storage, self.device = tensors, dtype, maps, device
        self.normalisation = tuple(torch.tensor(values, dtype=dtype, device=device) for values in normalisation)
        self.stages: list[Stage] = []
        self.maps = {name: Map(1, 3, dtype) for name in (IMAGE, OUTPUT)}

    def add(
        self,
        kind: str,
        reads: tuple[str, ...],
        gate: Gate | None,
        weights: tuple[Tensor, ...],
        scale: int | None = None,
    ) -> tuple[str, ...]:
        """Append a stage; returns the names of its outputs, at this scale or else that of the map that it reads first."""
        writes = tuple(f"{name}{len(self.stages)}" for name in KINDS[kind].outputs)
        if KINDS[kind].writes_picture:
            writes = (OUTPUT,)
        else:
            channels = weights[-1].shape[0]  # the bias of a convolution
            self.maps |= dict.fromkeys(writes, Map(scale or self.maps[reads[0]].scale, channels, self.storage))
        self.stages.append(Stage(kind, reads, writes, gate, weights))
        return writes

    def head(self, group: str) -> tuple[str, ...]:
        """The first stage; `group` follows."""
        return self.add(
            "head", (IMAGE,), None, (*self.normalisation, *self.get("pre.0"), *self.convolutions(f"{group}.gp.0"))
        )

    def group(self, group: str, x: str, z: str) -> str:
        """All of a group whose first block has been convolved, with no block after it."""
        skip = x
        x, z = self.blocks(group, x, z)
        (r,) = self.add("last_group", (x, z, skip), *self.end_of_group(group, z))
        return r

    def blocks(self, group: str, x: str, z: str) -> tuple[str, str]:
        """The blocks of a group after its first one."""
        for block in range(1, self.count(f"{group}.gp.{{}}.conv1.weight", 0)):
            gate, weights = self._finish(f"{group}.gp.{block - 1}", z)
            x, z = self.add("block", (x, z), gate, (*weights, *self.convolutions(f"{group}.gp.{block}")))
        return x, z

    def end_of_group(self, group: str, z: str) -> tuple[Gate, tuple[Tensor, ...]]:
        """What finishes the last block of a group, whose mean is that of z, and the group's convolution."""
        blocks = self.count(f"{group}.gp.{{}}.conv1.weight", 0)
        gate, weights = self._finish(f"{group}.gp.{blocks - 1}", z)
        return gate, (*weights, *self.get(f"{group}.gp.{blocks}"))

    def _finish(self, block: str, z: str) -> tuple[Gate, tuple[Tensor, ...]]:
        gate = self.gate([z], f"{block}.calayer.ca.0", f"{block}.calayer.ca.2")
        return gate, self.pixel_attention(f"{block}.")

    def fused(self, level: int) -> tuple[Tensor, ...]:
        """Weights of the stage `up`, of the convolutions `up` and `fuse` of this level; composed in float64."""
        names = [f"{name}{level}.{part}" for name in ("up", "fuse") for part in ("weight", "bias")]
        return tuple(map(self._place, up.compose(*(self.tensors[name].double() for name in names))))

    def get(self, *names: str) -> tuple[Tensor, ...]:
        """Weight and bias of each."""
        return tuple(self._place(self.tensors[f"{name}.{part}"]) for name in names for part in ("weight", "bias"))

    def convolutions(self, block: str) -> tuple[Tensor, ...]:
        """Of a block."""
        return self.get(f"{block}.conv1", f"{block}.conv2")

    def pixel_attention(self, prefix: str) -> tuple[Tensor, ...]:
        """Of the block with this prefix."""
        return self._pointwise(f"{prefix}palayer.pa.0", f"{prefix}palayer.pa.2")

    def gate(self, means: Sequence[str], *names: str) -> Gate:
        """Channel attention from the means of these maps."""
        return Gate(tuple(means), tuple(weight.double() for weight in self._pointwise(*names)), self.dtype)

    def count(self, pattern: str, start: int) -> int:
        """How many numbers from `start` on fit the pattern of a tensor's name."""
        return next(n for n in itertools.count() if pattern.format(start + n) not in self.tensors)

    def _pointwise(self, *names: str) -> tuple[Tensor, ...]:
        return tuple(part.flatten(1) if part.dim() == 4 else part for part in self.get(*names))

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype).contiguous()
