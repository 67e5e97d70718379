"""The Triton kernels, and on a GPU those in CUDA C++, compute what the formulas say, whatever the size and the bands.

They run on a GPU where there is one, and always under Triton's interpreter, for which this file runs itself in a
process of its own: the interpreter must be chosen before Triton is imported. Its bfloat16 products are wrong, so that
those are for the GPU alone, and it takes 30 ms a row.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types

import pytest
import torch
from torch import Tensor

from famkern import Dehazer
from famkern.models import Student
from famkern.models.student import IMAGE_MEAN, IMAGE_STD
from famkern.ops import block, group, head, library, route, tail

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
HALF = torch.float16

# a line, one pixel, a few pixels, more columns than a program owns; then sizes for a GPU alone
SIZES = [(1, 1, 19), (2, 1, 1), (1, 5, 3), (1, 2, 131)]
LARGE = [] if INTERPRETED else [(3, 23, 1), (1, 97, 61), (2, 67, 257), (1, 300, 511)]
PRECISIONS = [(16, torch.float32), (16, HALF)]
if not INTERPRETED:
    PRECISIONS = [(C, dtype) for C in (16, 32, 64) for dtype in (torch.float32, HALF, torch.bfloat16)]
STAGES = ("head", "block", "group", "last_group", "tail")
REFERENCES = {
    "head": head.reference,
    "block": block.reference,
    "group": group.reference,
    "last_group": group.last_reference,
    "tail": tail.reference,
}
REACH = {"head": 3, "block": 2, "group": 3, "last_group": 1, "tail": 2}

pytestmark = [  # what the interpreter says of lanes whose results nobody reads
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def needs_a_gpu_or_the_interpreter(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def memory_full_of_nan():
    """Whatever a kernel reads before it was written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["triton"] if INTERPRETED else ["triton", "cuda"])
def kernels(request):
    if request.param == "cuda":
        if library.why_not_cuda() is not None:
            pytest.skip("needs famkern built with nvcc, FAMKERN_CUDA=1, and a driver that is not older")
        return types.SimpleNamespace(
            **{f"{name}_stage": getattr(torch.ops.famkern, f"{name}_stage_cuda") for name in STAGES}
        )
    stages = pytest.importorskip("famkern.kernels.stages")
    if INTERPRETED:  # its check of every integer for overflow is a third of its time
        from triton.runtime.interpreter import interpreter_builder

        object.__setattr__(interpreter_builder.options, "sanitize_overflow", False)
    return stages


class Case:
    """Random maps and weights of a stage, on the CPU."""

    def __init__(self, name: str, C: int, dtype: torch.dtype, B: int, rows: int, width: int, cell: int = 0) -> None:
        self.name, self.C, self.dtype, self.shape = name, C, dtype, (B, rows, width)
        self.cell = cell or max(rows, width)
        generator = torch.Generator().manual_seed(rows * width + C)

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(shape, generator=generator) * scale

        def convolution(outputs: int = C, inputs: int = C) -> tuple[Tensor, Tensor]:
            return random(outputs, inputs, 3, 3, scale=(9 * inputs) ** -0.5), random(outputs)

        attention = random(C // 8, C, scale=C**-0.5), random(C // 8), random(1, C // 8), random(1)
        normalisation = torch.tensor([0.64, 0.6, 0.58]), torch.tensor([0.14, 0.15, 0.152])
        picture = torch.rand(B, rows, width, 3, generator=generator)
        maps = [random(B, rows, width, C).to(dtype) for _ in range(3)]
        two, three = (*convolution(), *convolution()), (*convolution(), *convolution(), *convolution())
        self.reads, self.weights, self.outputs, self.sums = {
            "head": ([picture], (*normalisation, *convolution(C, 3), *two), 2, 1),
            "block": (maps[:2], (*attention, *two), 2, 1),
            "group": (maps, (*attention, *three), 2, 2),
            "last_group": (maps, (*attention, *convolution()), 1, 1),
            "tail": ([picture, *maps], (*normalisation, *attention, *convolution(), *convolution(3)), 1, 0),
        }[name]
        corners = [1 if length <= self.cell else -(-length // self.cell) + 1 for length in (rows, width)]
        channels = {"head": [], "tail": [3 * C]}.get(name, [C])
        self.gate = [torch.rand(B, *corners, count, generator=generator) for count in channels]

    def call(
        self, stage, reads, dtype: torch.dtype, device: str, top: int, bottom: int, first_row: int = 0
    ) -> list[Tensor]:
        """Outputs and sums of a band; `dtype` is that of the weights."""
        B, rows, width, _ = reads[0].shape
        C, kind = (3, dtype) if self.name == "tail" else (self.C, reads[-1].dtype)
        if self.name == "head":
            kind = self.dtype if dtype == torch.float32 else dtype
        rows -= top + bottom
        outputs = [torch.empty(B, rows, width, C, dtype=kind, device=device) for _ in range(self.outputs)]
        cells = -(-width // self.cell)
        sums = [torch.empty(B, rows, cells, self.C, dtype=torch.float64, device=device) for _ in range(self.sums)]
        reads = [reads[0], reads[1:]] if self.name == "tail" else reads
        weights = [w.to(device, dtype) for w in (*self.gate, *self.weights)]
        place = (top, bottom, self.cell, first_row)
        stage(*reads, *weights, *outputs, *sums, *(place[:3] if self.name == "head" else place))
        return [*outputs, *sums]

    def run(self, kernels, device: str, band: int | None = None) -> list[Tensor]:
        """The kernels, on bands of so many rows."""
        if isinstance(kernels, types.SimpleNamespace) and (self.C != 16 or self.dtype == torch.float32):
            pytest.skip("CUDA C++ has 16 channels and 16-bit maps")
        rows, reach = self.shape[1], REACH[self.name]
        stage, parts = getattr(kernels, f"{self.name}_stage"), []
        for start in range(0, rows, band or rows):
            stop = min(start + (band or rows), rows)
            top, bottom = min(reach, start), min(reach, rows - stop)
            reads = [m[:, start - top : stop + bottom].contiguous().to(device) for m in self.reads]
            parts.append(self.call(stage, reads, torch.float32, device, top, bottom, start - top))
        return [torch.cat(part, 1).cpu() for part in zip(*parts, strict=True)]

    def reference(self, dtype: torch.dtype) -> list[Tensor]:
        """The formulas in PyTorch, everything in this precision."""
        return self.call(REFERENCES[self.name], [m.to(dtype) for m in self.reads], dtype, "cpu", 0, 0)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [*SIZES, *LARGE], ids=str)
@pytest.mark.parametrize(("C", "dtype"), PRECISIONS, ids=str)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_computes_its_formulas(kernels, name, C, dtype, size, device) -> None:
    """In half precision with at most twice the error of PyTorch's, beside a fraction of the last digit."""
    case = Case(name, C, dtype, *size)
    wanted = case.reference(torch.float64)
    theirs = wanted if dtype == torch.float32 else case.reference(dtype)
    for got, right, half in zip(case.run(kernels, device), wanted, theirs, strict=True):
        digit = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 8
        assert got.isfinite().all()
        assert error(got, right) <= max(2 * error(half, right), digit * float(right.norm()))


# Cells that run down alone, across alone over several blocks of columns, and both ways; rows, columns, cell.
WINDOWS = [(9, 3, 4), (1, 131, 48), (6, 13, 4)]
if not INTERPRETED:
    WINDOWS += [(70, 64, 64), (131, 300, 64), (97, 511, 48), (53, 127, 12)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", WINDOWS, ids=str)
@pytest.mark.parametrize(("C", "dtype"), PRECISIONS, ids=str)
@pytest.mark.parametrize("name", STAGES)
def test_means_over_windows(kernels, name, C, dtype, size, device) -> None:
    """As above; sums are held one by one, for one cell among many weighs little in a norm."""
    if INTERPRETED and dtype == torch.float32 and name not in ("block", "tail"):
        pytest.skip("twice is enough: the code is the same")
    case = Case(name, C, dtype, 1, *size)
    wanted = case.reference(torch.float64)
    theirs = wanted if dtype == torch.float32 else case.reference(dtype)
    largest = max(float(w.abs().max()) for w in wanted[: case.outputs])
    for got, right, half in zip(case.run(kernels, device), wanted, theirs, strict=True):
        digit = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 8
        assert error(got, right) <= max(2 * error(half, right), digit * float(right.norm()))
        if got.dtype == torch.float64:
            assert (got - right).abs().max() <= 8 * digit * case.cell * largest


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "C"), [("block", 32), ("block", 64), ("tail", 32)])
def test_wider_networks(kernels, name, C, device) -> None:
    case = Case(name, C, HALF, 1, 3, 70)
    wanted, theirs = case.reference(torch.float64), case.reference(HALF)
    for got, right, half in zip(case.run(kernels, device), wanted, theirs, strict=True):
        assert error(got, right) <= 2 * error(half, right)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", sorted({dtype for _, dtype in PRECISIONS}, key=str), ids=str)
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("cell", [0, 4 if INTERPRETED else 48])
def test_bands_and_runs_leave_the_bits_alone(kernels, cell, name, dtype, device, monkeypatch) -> None:
    if INTERPRETED and dtype == torch.float32 and name != "block":
        pytest.skip("once is enough: the code is the same")
    size = (1, 6, 9) if INTERPRETED else (2, 61, 300)
    case = Case(name, 16, dtype, *size, cell)
    expected = case.run(kernels, device)
    if not isinstance(kernels, types.SimpleNamespace):  # CUDA C++ keeps its own
        monkeypatch.setattr(kernels.launch, "LEAST_RUN", 3)
    for band in (None, 4) if INTERPRETED else (None, 1, 4, 13, 36):
        assert all(map(torch.equal, case.run(kernels, device, band), expected)), band


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cell", [0, 4])
def test_every_tile_that_may_be_chosen_is_right(kernels, cell, device, monkeypatch) -> None:
    if isinstance(kernels, types.SimpleNamespace):
        pytest.skip("CUDA C++ has one tile")
    case = Case("block", 16, HALF, 1, 2, 131, cell)
    wanted, theirs = case.reference(torch.float64), case.reference(HALF)
    candidates = kernels.tiles.space(16, 2)
    for tile in candidates[-1:] if INTERPRETED else candidates:
        monkeypatch.setitem(kernels.TILES, (16, 2), tile)
        for got, right, half in zip(case.run(kernels, device), wanted, theirs, strict=True):
            assert error(got, right) <= max(2 * error(half, right), torch.finfo(HALF).eps / 8 * float(right.norm()))


@pytest.mark.parametrize("device", DEVICES)
def test_a_tile_is_measured_on_a_block_stage(kernels, device, monkeypatch) -> None:
    if isinstance(kernels, types.SimpleNamespace):
        pytest.skip("CUDA C++ has one tile")
    measure = pytest.importorskip("famkern.kernels.stages.measure")
    if INTERPRETED:
        monkeypatch.setattr(measure, "ROWS", 2)
        monkeypatch.setattr(measure, "COLUMNS", 5)
        monkeypatch.setattr(measure, "do_bench", lambda run, **_: run() or 0.5)
    assert 0 < measure.block_stage(16, HALF, torch.device(device)) < 1000


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_of_a_batch_do_not_meet(kernels, device) -> None:
    case = Case("block", 16, HALF, 2, 2, 5)
    both = case.run(kernels, device)
    case.reads, case.gate = [m[1:] for m in case.reads], [case.gate[0][1:]]
    case.shape = (1, 2, 5)
    assert all(torch.equal(alone, pair[1:]) for alone, pair in zip(case.run(kernels, device), both, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_what_does_not_fit_is_refused(kernels, device) -> None:
    for change, message in (
        (
            lambda case: setattr(case, "reads", [case.reads[0], case.reads[1].float()]),
            "torch.float16 of the shape|same dtype",
        ),
        (lambda case: setattr(case, "gate", [case.gate[0][..., :8]]), "of the shape"),
        (
            lambda case: setattr(case, "weights", (*case.weights[:4], case.weights[4][:8], *case.weights[5:])),
            "channels",
        ),
        (lambda case: setattr(case, "gate", [torch.rand(1, 1, 3, 16)]), "corner of cells"),
        (lambda case: setattr(case, "cell", 2), "multiple of 4"),
    ):
        case = Case("block", 16, HALF, 1, 2, 3)
        change(case)
        with pytest.raises(RuntimeError, match=message):
            case.run(kernels, device)


def network() -> Student:
    torch.manual_seed(0)
    return Student(channels=16, groups=1 if INTERPRETED else 3, blocks=2).eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [0, 16])
def test_the_engine_runs_on_the_kernels(kernels, window, device, monkeypatch) -> None:
    """A whole network, in one band and in several: the same bits, and right."""
    size = (3, 5 if window == 0 else 18) if INTERPRETED else (150, 211)
    way = dataclasses.replace(route.GPU, workspace_bytes=lambda *_: 0)
    if INTERPRETED:
        for module in (head, block, group, tail):
            monkeypatch.setattr(module, "operator", lambda name, *_: getattr(kernels, name))
    picture = torch.rand(3, *size)
    results = []
    for band in (size[0], 2):
        cut = dataclasses.replace(way, band_pixels=band * size[1])
        monkeypatch.setattr(route, "choose", lambda *_, cut=cut: cut)
        results.append(Dehazer(network(), device=device, window=window)(picture.to(device)).cpu())
    monkeypatch.undo()
    assert torch.equal(*results)
    right = Dehazer(network(), device="cpu", dtype="float64", window=window)(picture)
    assert (results[0] - right).abs().max() < (1e-4 if device == "cpu" else 5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF, torch.bfloat16], ids=str)
@pytest.mark.parametrize("C", [16, 32, 64])
def test_the_whole_network(C, dtype, device, monkeypatch) -> None:
    model, picture = Student(channels=C).eval(), torch.rand(3, 123, 211)
    assert route.choose(torch.device(device), C, torch.float32) is route.GPU
    right = Dehazer(model, device="cpu", dtype="float64")(picture.double())
    got = Dehazer(model, device=device, dtype=dtype)(picture.to(device))
    assert torch.equal(got, Dehazer(model, device=device, dtype=dtype)(picture.to(device)))
    limit = 1e-4
    if dtype != torch.float32:
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
        with torch.inference_mode():
            theirs = model.to(device, dtype)(((picture.to(device) - mean) / std).to(dtype)[None])[0].clamp(0, 1)
        limit = 2 * error(theirs.cpu(), right) / right.numel() ** 0.5
    assert error(got.cpu(), right) / right.numel() ** 0.5 <= limit


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("device", [None])
def test_under_the_interpreter(device) -> None:
    triton = pytest.importorskip("triton")
    if not triton.__version__.startswith("3.6."):
        pytest.skip(f"needs the interpreter of Triton 3.6, this is {triton.__version__}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [*command, __file__], env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1]) > 50
