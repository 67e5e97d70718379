"""The Triton kernels, and on a GPU those in CUDA C++, compute what the formulas say, whatever the size and the bands.

They run on a GPU where there is one, and always under Triton's interpreter, for which this file runs itself in a
process of its own: the interpreter must be chosen before Triton is imported. Its bfloat16 products are wrong, so that
those are for the GPU alone, and it takes 30 ms a row.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from famkern import Dehazer
from famkern.models import Student, UStudent
from famkern.models.student import IMAGE_MEAN, IMAGE_STD
from famkern.ops import library, route
from famkern.ops import stage as ops
from famkern.ops.kinds import KINDS

from .. import stage_cases
from ..stage_cases import having
from . import interpreter

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
STAGES = having("triton")
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
HALF = torch.float16

# One pixel, more columns than a program owns, a few pixels of two pictures; then sizes for a GPU alone.
SIZES = [(1, 1, 1), (1, 2, 131), (2, 3, 5)]
LARGE = [] if INTERPRETED else [(1, 1, 19), (3, 23, 1), (1, 97, 61), (2, 67, 257), (1, 300, 511)]
PRECISIONS = [(C, dtype) for C in (16, 32, 64) for dtype in (torch.float32, HALF, torch.bfloat16)]
if INTERPRETED:
    PRECISIONS = [(16, torch.float32), (16, HALF)]
pytestmark = [  # what the interpreter says of lanes whose results nobody reads
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def memory_full_of_nan():
    """Whatever a kernel reads before it was written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["triton"] if INTERPRETED else ["triton", "cuda"])
def kernels(request):
    """The module of the Triton kernels, or the operator in CUDA C++."""
    if request.param == "cuda":
        if library.why_not_cuda() is not None:
            pytest.skip("needs famkern built with nvcc, FAMKERN_CUDA=1, and a driver that is not older")
        return functools.partial(torch.ops.famkern.stage.default.redispatch, ops._COMPILED)
    stages = pytest.importorskip("famkern.kernels.stages")
    if INTERPRETED:
        interpreter.hasten()
    return stages


def is_cuda(kernels) -> bool:
    return isinstance(kernels, functools.partial)


class Case(stage_cases.Case):
    """A stage on these kernels; other scales have twice or half as many channels, as a U-shaped student has them."""

    def __init__(self, name: str, C: int, dtype: torch.dtype, B: int, rows: int, width: int, cell: int = 0) -> None:
        other = max(16, C // 2) if name == "down" else min(64, 2 * C)
        post = 3 + width % 2
        super().__init__(
            *(name, C, B, rows, width), storage=dtype, cell=cell or None, seed=rows * width + C, other=other, post=post
        )

    def on(self, kernels, device: str, band: int | None = None) -> list[Tensor]:
        """The kernels, on bands of so many rows: outputs and sums."""
        if is_cuda(kernels) and (self.channels != 16 or self.storage == torch.float32):
            pytest.skip("CUDA C++ has 16 channels and 16-bit maps")
        operator = kernels if is_cuda(kernels) else kernels.stage
        outputs, sums = self.run(operator, band=band, halo=self.row.convolutions, device=device)
        return [*outputs, *sums]

    def right(self, dtype: torch.dtype) -> list[Tensor]:
        """The formulas in PyTorch, everything in this precision."""
        outputs, sums = self.expected(dtype)
        return [*outputs, *sums]


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [*SIZES, *LARGE], ids=str)
@pytest.mark.parametrize(("C", "dtype"), PRECISIONS, ids=str)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_computes_its_formulas(kernels, name, C, dtype, size, device) -> None:
    """In half precision with at most twice the error of PyTorch's, beside a fraction of the last digit."""
    if INTERPRETED and dtype == torch.float32 and size != SIZES[-1]:
        pytest.skip("once is enough: float32 takes no other way at another size")
    case = Case(name, C, dtype, *size)
    wanted = case.right(torch.float64)
    theirs = wanted if dtype == torch.float32 else case.right(dtype)
    for got, right, half in zip(case.on(kernels, device), wanted, theirs, strict=True):
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
    if INTERPRETED and dtype == torch.float32 and (name not in ("block", "tail") or size != WINDOWS[-1]):
        pytest.skip("twice is enough: the code is the same")
    if INTERPRETED and not KINDS[name].gated and size != WINDOWS[1]:
        pytest.skip("without a gate only columns have cells")
    case = Case(name, C, dtype, 1, *size)
    wanted = case.right(torch.float64)
    theirs = wanted if dtype == torch.float32 else case.right(dtype)
    largest = max(float(w.abs().max()) for w in wanted[: len(case.row.outputs)])
    for got, right, half in zip(case.on(kernels, device), wanted, theirs, strict=True):
        digit = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 8
        assert error(got, right) <= max(2 * error(half, right), digit * float(right.norm()))
        if got.dtype == torch.float64:
            assert (got - right).abs().max() <= 8 * digit * case.cell * largest


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "C"), [("block", 64), ("tail", 32), ("down", 32), ("down", 64), ("up", 32), ("u_tail", 32)]
)
def test_wider_networks(kernels, name, C, device) -> None:
    case = Case(name, C, HALF, 1, 2, 67 if C == 32 else 5)
    wanted, theirs = case.right(torch.float64), case.right(HALF)
    for got, right, half in zip(case.on(kernels, device), wanted, theirs, strict=True):
        assert error(got, right) <= 2 * error(half, right)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", sorted({dtype for _, dtype in PRECISIONS}, key=str), ids=str)
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("cell", [0, 4 if INTERPRETED else 48])
def test_bands_and_runs_leave_the_bits_alone(kernels, cell, name, dtype, device, monkeypatch) -> None:
    if INTERPRETED and (dtype == torch.float32 or cell == 0) and name != "block":
        pytest.skip("once is enough: the code is the same, or less of it")
    size = (1, 7, 9) if INTERPRETED else (2, 61, 300)
    case = Case(name, 16, dtype, *size, cell)
    expected = case.on(kernels, device)
    if not is_cuda(kernels):  # CUDA C++ keeps its own
        monkeypatch.setattr(kernels.launch, "LEAST_RUN", 3)
    for band in (
        (5,) if INTERPRETED else (None, 1, 4, 13, 36)
    ):  # the first band of two runs, odd rows first in the other
        assert all(map(torch.equal, case.on(kernels, device, band), expected)), band


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cell", [0, 4])
def test_every_tile_that_may_be_chosen_is_right(kernels, cell, device, monkeypatch) -> None:
    if is_cuda(kernels):
        pytest.skip("CUDA C++ has one tile")
    case = Case("block", 16, HALF, 1, 2, 131, cell)
    wanted, theirs = case.right(torch.float64), case.right(HALF)
    candidates = kernels.tiles.space(16, 2)
    for tile in candidates[-1:] if INTERPRETED else candidates:
        monkeypatch.setitem(kernels.TILES, (16, 2), tile)
        for got, right, half in zip(case.on(kernels, device), wanted, theirs, strict=True):
            assert error(got, right) <= max(2 * error(half, right), torch.finfo(HALF).eps / 8 * float(right.norm()))


@pytest.mark.parametrize("device", DEVICES)
def test_a_tile_is_measured_on_a_block_stage(kernels, device, monkeypatch) -> None:
    if is_cuda(kernels):
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
    both = case.on(kernels, device)
    case.maps, case.gate = [m[1:] for m in case.maps], case.gate[1:]
    case.shape = (1, 2, 5)
    assert all(torch.equal(alone, pair[1:]) for alone, pair in zip(case.on(kernels, device), both, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_what_does_not_fit_is_refused(kernels, device) -> None:
    for change, message in (
        (
            lambda case: setattr(case, "maps", [case.maps[0], case.maps[1].float()]),
            "torch.float16 of the shape|same dtype",
        ),
        (lambda case: setattr(case, "gate", case.gate[..., :8]), "of the shape"),
        (
            lambda case: setattr(case, "weights", (*case.weights[:4], case.weights[4][:8], *case.weights[5:])),
            "of the shape",
        ),
        (lambda case: setattr(case, "gate", torch.rand(1, 1, 3, 16)), "corner of cells"),
        (lambda case: setattr(case, "cell", 2), "multiple of 4"),
    ):
        case = Case("block", 16, HALF, 1, 2, 3)
        change(case)
        with pytest.raises(RuntimeError, match=message):
            case.on(kernels, device)


def network(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "U":
        return (UStudent((16, 32), (1, 1, 1)) if INTERPRETED else UStudent((16, 32, 64), (1, 2, 1, 1, 2))).eval()
    return Student(channels=16, groups=1 if INTERPRETED else 3, blocks=2).eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("family", "window"), [("student", 0), ("student", 16), ("U", 0), ("U", 16)])
def test_the_engine_runs_on_the_kernels(kernels, family, window, device, monkeypatch) -> None:
    """A whole network, in one band and in several: the same bits, and right."""
    size = (3, 18 if window else 5) if INTERPRETED else (150, 211)
    if INTERPRETED and (family == "student") == (window == 0):
        pytest.skip("too large for the interpreter; the stages have been tried one by one")
    way = dataclasses.replace(route.GPU, workspace_bytes=lambda *_: 0)
    if INTERPRETED:
        monkeypatch.setattr(ops, "reference", kernels.stage)  # it is told to run there
    picture = torch.rand(3, *size)
    results = []
    for band in (size[0], 2):
        cut = dataclasses.replace(way, band_pixels=band * size[1])
        monkeypatch.setattr(route, "choose", lambda *_, cut=cut: cut)
        if INTERPRETED:
            monkeypatch.setattr(route, "REFERENCE", cut)
        results.append(Dehazer(network(family), device=device, window=window)(picture.to(device)).cpu())
    monkeypatch.undo()
    assert torch.equal(*results)
    right = Dehazer(network(family), device="cpu", dtype="float64", window=window)(picture)
    assert (results[0] - right).abs().max() < (1e-4 if device == "cpu" else 5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF, torch.bfloat16], ids=str)
@pytest.mark.parametrize("C", [16, 32, 64, "U"])
def test_the_whole_network(C, dtype, device, monkeypatch) -> None:
    model, picture = UStudent() if C == "U" else Student(channels=C), torch.rand(3, 123, 211)
    model.eval()
    for kind in KINDS.values():
        assert route.choose(torch.device(device), (16, 32, 64), torch.float32, kind) is route.GPU
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


@pytest.mark.slow
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
