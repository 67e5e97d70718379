"""Where in one stretch of memory, the arena, each map lies, so that few bytes serve them all.

A stage rewrites most of what it reads, so a written map takes over the place of a map of the same size that dies at that
stage, displaced by `slide` rows so that no row is overwritten while the halo of another band still needs it:

    stage k     reads  |####map####|.....|    sweeps upwards,   writes  |.....|####map####|
    stage k+1   reads  |.....|####map####|    sweeps downwards, writes  |####map####|.....|

With bands of b rows and a halo of h, slide = b + h rows are enough; with one band it is the whole height, which is plain
double buffering. Maps that follow each other in this way are a chain. Each chain has its piece of the arena while it
lives, with room to slide; pieces are given out from the largest to the smallest, each the lowest that nothing alive at the
same time has. They are of sizes that make up each other, so that two at half the scale fit where one was before:

    bytes
      |  z0-z1 ... |x2 ... a2|           |  z        chains of a U-shaped student
      |  x0 | a1 ------------------------|- x
      +---------------------------------------> stages
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .line import Map, Stage


@dataclass(frozen=True)
class Chain:
    """Maps of one size that take over from each other."""

    names: tuple[str, ...]
    map: Map  # what each of them is
    first: int  # stage that writes the first one
    last: int  # stage that reads the last one last
    displaced: bool  # whether the first one lies `slide` rows below the beginning; each next one lies on the other side


@dataclass(frozen=True)
class Arrangement:
    """What the line alone decides: chains of maps, and the direction in which each stage sweeps over its bands."""

    chains: tuple[Chain, ...]
    upwards: tuple[bool, ...]


def arrange(stages: Sequence[Stage], maps: Mapping[str, Map]) -> Arrangement:
    """Let maps take over from others wherever they can.

    A stage sweeps in the direction in which it can take over more; where it takes over nothing, as the first stage and the
    last one, downwards.

    Args:
        stages: of the line.
        maps: what its maps are, without pictures.
    """
    last_reader = {name: index for index, stage in enumerate(stages) for name in stage.reads}
    displaced: dict[str, bool] = {}
    predecessors: dict[str, str] = {}
    upwards = []
    for index, stage in enumerate(stages):
        dying = [name for name in dict.fromkeys(stage.reads) if name in maps and last_reader[name] == index]
        written = [name for name in stage.writes if name in maps]
        # Upwards, rows move down: what they take over must not lie there already.
        choices = {up: _pair(written, [name for name in dying if displaced[name] != up], maps) for up in (False, True)}
        up = _pixel_bytes(choices[True], maps) > _pixel_bytes(choices[False], maps)
        predecessors |= choices[up]
        displaced |= dict.fromkeys(written, up)
        upwards.append(up)
    writer = {name: index for index, stage in enumerate(stages) for name in stage.writes}
    chains: dict[str, list[str]] = {}
    for name in displaced:
        before = predecessors.get(name)
        chains[name] = [*chains.pop(before), name] if before else [name]
    return Arrangement(
        tuple(
            Chain(tuple(names), maps[last], writer[names[0]], last_reader[last], displaced[names[0]])
            for last, names in chains.items()
        ),
        tuple(upwards),
    )


def _pair(written: Sequence[str], free: list[str], maps: Mapping[str, Map]) -> dict[str, str]:
    """Which of the written maps take over from which."""
    pairs = {}
    for name in written:
        same = next((other for other in free if maps[other] == maps[name]), None)
        if same is not None:
            pairs[name] = same
            free.remove(same)
    return pairs


def _pixel_bytes(names: Iterable[str], maps: Mapping[str, Map]) -> float:
    """Bytes a pixel of the picture."""
    return sum(maps[name].channels * maps[name].dtype.itemsize / maps[name].scale ** 2 for name in names)


def place(chains: Sequence[Chain], piece: Callable[[Map], tuple[int, int]]) -> tuple[dict[str, int], int]:
    """The first byte of every map, and the bytes of the arena.

    Args:
        chains: of the line.
        piece: bytes of a map's piece of the arena, and bytes by which the map slides in it.
    """
    sizes = {chain: piece(chain.map) for chain in chains}
    pieces: list[tuple[int, int, Chain]] = []
    first: dict[str, int] = {}
    for chain in sorted(chains, key=sizes.__getitem__, reverse=True):
        (size, slide), start = sizes[chain], 0
        for low, high, other in sorted(pieces, key=lambda piece: piece[0]):
            together = other.first <= chain.last and chain.first <= other.last
            if together and start < high and low < start + size:
                start = high
        pieces.append((start, start + size, chain))
        for i, name in enumerate(chain.names):
            first[name] = start + slide * (chain.displaced != (i % 2 == 1))
    return first, max(high for _, high, _ in pieces)
