"""A network as a line of stages.

Every mean is a barrier over the whole image. Between two barriers stand two or three convolutions, which together with the
end of the block before make one stage. The student, and a U-shaped one of two levels:

    head   block  block  ... group  block  block ... group ... last group  tail
    x z -> x z -> x z ->     r1 z -> x z -> ...      r2 z      r3          y
       |mean  |mean             |mean

    head  block ... last group                                          up   block ...  u tail       scale 1
    x z -> x z ->   a1                                                  x z -> x z ->   y
                       down   block ... last group                                                   scale 2
                       x z -> x z ->    a2

The line is data. Each stage names the maps it reads and writes; no name is written twice, so a map's life runs from
its writer to its last reader and the plan can let maps share memory. lowering.py makes lines of networks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import formulas
from ..ops.kinds import KINDS
from .arena import Arrangement, arrange

IMAGE = "image"
OUTPUT = "output"
PICTURES = (IMAGE, OUTPUT)


@dataclass(frozen=True)
class Map:
    """What a map is: (1, ceil(H / scale), ceil(W / scale), channels) for a picture of H x W."""

    scale: int
    channels: int
    dtype: torch.dtype


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


@dataclass(frozen=True, eq=False)
class Line:
    """A network: its stages in their order, and what their maps are, the pictures among them."""

    stages: tuple[Stage, ...]
    maps: Mapping[str, Map]

    @property
    def arithmetic(self) -> torch.dtype:
        """Precision of pictures and of everything between maps."""
        return self.maps[IMAGE].dtype

    @property
    def storage(self) -> torch.dtype:
        """Precision of the first maps, and so of most."""
        return self.maps[self.stages[0].writes[0]].dtype

    @functools.cached_property
    def scales(self) -> tuple[int, ...]:
        """Of each stage's outputs, which are all of one."""
        return tuple(self.maps[stage.writes[0]].scale for stage in self.stages)

    @functools.cached_property
    def all_scales(self) -> tuple[int, ...]:
        """The scales that there are, the finest first."""
        return tuple(sorted({map_.scale for map_ in self.maps.values()}))

    @functools.cached_property
    def arrangement(self) -> Arrangement:
        """Which maps share memory, and how stages sweep."""
        return arrange(self.stages, {name: map_ for name, map_ in self.maps.items() if name not in PICTURES})

    @functools.cached_property
    def kinds(self) -> frozenset[tuple[str, frozenset[int]]]:
        """The kinds of stages, each with channels of the maps that it reads and writes."""
        return frozenset(
            (stage.kind, frozenset(self.maps[name].channels for name in maps_of(stage))) for stage in self.stages
        )

    @functools.cached_property
    def unseen(self) -> frozenset[str]:
        """Maps that no later mean depends on, so that no mean tells of an infinity in them."""
        seen = {name for stage in self.stages if stage.sums for name in stage.reads}
        return frozenset(name for stage in self.stages for name in maps_of(stage) if name not in seen)

    @functools.cached_property
    def unlike(self) -> tuple[int, ...]:
        """Of stages that are of one kind, with the same maps, the first."""
        first: dict[tuple[str, tuple[Map, ...]], int] = {}
        for index, stage in enumerate(self.stages):
            first.setdefault((stage.kind, tuple(self.maps[name] for name in maps_of(stage))), index)
        return tuple(first.values())

    @functools.cached_property
    def sums(self) -> frozenset[tuple[tuple[Map, ...], tuple[Map, ...]]]:
        """For each stage the maps whose sums it leaves, and those whose means are known meanwhile; each case once."""
        cases, known = set(), list[str]()
        for index, stage in enumerate(self.stages):
            known = [name for name in known if self.last_use[name] >= index]
            cases.add((tuple(self.maps[name] for name in stage.sums), tuple(self.maps[name] for name in known)))
            known += [name for name in stage.sums if name in self.last_use]
        return frozenset(cases)

    @functools.cached_property
    def last_use(self) -> Mapping[str, int]:
        """The last stage whose gate has this map's mean."""
        return {name: i for i, stage in enumerate(self.stages) if stage.gate for name in stage.gate.means}

    def halo(self, tile: int) -> int:
        """Rows needed above and below a band by any stage."""
        return max(stage.halo(tile) for stage in self.stages)


def maps_of(stage: Stage) -> list[str]:
    """The maps, without pictures, that a stage reads and writes, each once."""
    # In a group of one block x is also the group's skip: read twice, but one map.
    return [name for name in dict.fromkeys((*stage.reads, *stage.writes)) if name not in PICTURES]
