"""Random maps and weights of every kind of stage, made from the table of kinds, for the tests of all its backends."""

import math

import torch

from famkern.ops import library
from famkern.ops.kinds import KINDS
from famkern.ops.stage import reference, stage

STAGES = tuple(KINDS)
_SETS = ("portable", "avx2", "avx512")
# Of the compiled kernels that run here: those that are not chosen unless FAMKERN_CPU_ISA asks for them.
OTHER_INSTRUCTION_SETS = _SETS[: _SETS.index(library.instruction_set())] if library.why_not_compiled() is None else ()


def having(kernels):
    """The kinds that these kernels have: "compiled", "triton" or "cuda"."""
    return tuple(name for name, kind in KINDS.items() if kernels in kind.kernels)


def corners_along(length, cell):
    """Places with means of their own along a side."""
    return 1 if length <= cell else -(-length // cell) + 1


def rows_of(operand, first, stop, height):
    """The rows of a map that a stage takes for rows first..stop of its outputs; `height` is the map's."""
    if operand.scale == "fine":
        return 2 * first, min(2 * stop, height)
    return (first // 2, -(-stop // 2)) if operand.scale == "coarse" else (first, stop)


class Case:
    """A stage with random weights and maps.

    Args:
        kind: its name.
        channels: of its outputs, or of the maps that it turns into a picture.
        batch, rows, width: of its outputs.
        storage: dtype of the maps.
        repeated: how many maps the kind has where it may have several.
        cell: rows and columns between means; None for one mean of all.
        other: channels of maps at another scale.
        post: outputs of the last convolution, where a kind leaves it open.
    """

    def __init__(
        self,
        kind,
        channels,
        batch,
        rows,
        width,
        *,
        storage=torch.float32,
        repeated=3,
        seed=0,
        cell=None,
        other=32,
        post=4,
    ):
        self.kind, self.channels, self.storage, self.cell = kind, channels, storage, cell or max(rows, width)
        self.row, self.shape = KINDS[kind], (batch, rows, width)
        generator = torch.Generator().manual_seed(seed)

        def random(*shape):
            return torch.randn(shape, generator=generator)

        self.operands = [
            operand for operand in self.row.maps for _ in range(repeated if operand.repeated else 1)
        ]  # fmt: skip
        self.maps = []
        for operand in self.operands:
            if operand.picture:
                self.maps.append(torch.rand(batch, rows, width, 3, generator=generator))
            elif operand.scale == "same":
                self.maps.append(random(batch, rows, width, channels).to(storage))
            else:  # of the two sizes that a finer level can have, each once
                sides = (2 * rows - 1, 2 * width) if operand.scale == "fine" else (-(-rows // 2), -(-width // 2))
                self.maps.append(random(batch, *sides, other).to(storage))
        own = sum(operand.scale == "same" and not operand.picture for operand in self.operands)
        corners = (corners_along(rows, self.cell), corners_along(width, self.cell))
        gates = channels * (own if self.row.maps[-1].repeated else 1)
        self.gate = torch.rand(batch, *corners, gates, generator=generator) if self.row.gated else None
        sizes = {"C": channels, "H": channels // 8, "I": other, "O": post}
        self.weights = []
        for name, symbols in self.row.weights.items():
            shape = [sizes.get(symbol) or int(symbol) for symbol in symbols.split()]
            numbers = random(*shape) * math.prod(shape[1:]) ** -0.5
            if name.startswith("post."):  # a gain and offsets with which most of the result is in [0, 1]
                numbers *= 0.1
            self.weights.append({"mean": 0.6 + 0.02 * numbers, "std": 0.15 + 0.005 * numbers}.get(name, numbers))

    def results(self, rows, *, storage, arithmetic=torch.float32, device="cpu"):
        """Outputs and sums of a band, full of NaN."""
        batch, _, width = self.shape
        dtype, channels = (arithmetic, 3) if self.row.writes_picture else (storage, self.channels)
        outputs = [torch.full((batch, rows, width, channels), torch.nan, dtype=dtype) for _ in self.row.outputs]
        cells = -(-width // self.cell)
        sums = [torch.full((batch, rows, cells, channels), torch.nan, dtype=torch.float64) for _ in self.row.sums]
        return [t.to(device) for t in outputs], [t.to(device) for t in sums]

    def run(self, operator=stage, *, band=None, halo=None, device="cpu"):
        """An operator on bands of so many rows: (outputs, sums)."""
        _, rows, _ = self.shape
        band, halo = band or rows, 1 + 4 * (self.row.convolutions - 1) if halo is None else halo
        gate = None if self.gate is None else self.gate.to(device)
        weights, parts = [w.to(device) for w in self.weights], []
        for start in range(0, rows, band):
            stop = min(start + band, rows)
            top, bottom = min(halo, start), min(halo, rows - stop)
            inputs = []
            for operand, m in zip(self.operands, self.maps, strict=True):
                first, end = rows_of(operand, start - top, stop + bottom, m.shape[1])
                inputs.append(m[:, first:end].contiguous().to(device))
            outputs, sums = self.results(stop - start, storage=self.storage, device=device)
            operator(self.kind, inputs, gate, weights, outputs, sums, (top, bottom, self.cell, start - top))
            parts.append((*outputs, *sums))
        whole = [torch.cat(part, 1).cpu() for part in zip(*parts, strict=True)]
        return whole[: len(self.row.outputs)], whole[len(self.row.outputs) :]

    def expected(self, dtype=torch.float64):
        """The reference on the whole picture, everything in this precision: (outputs, sums)."""
        outputs, sums = self.results(self.shape[1], storage=dtype, arithmetic=dtype)
        gate = None if self.gate is None else self.gate.to(dtype)
        maps, weights = ([t.to(dtype) for t in tensors] for tensors in (self.maps, self.weights))
        reference(self.kind, maps, gate, weights, outputs, sums, (0, 0, self.cell, 0))
        return outputs, sums
