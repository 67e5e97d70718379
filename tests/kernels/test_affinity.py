"""famkern.kernels.affinity: the Triton kernels equal the operators' implementation for any device.

They run on a GPU where there is one, and always under Triton's interpreter, for which this file runs itself in a
process of its own: the interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from famkern.ops import affinity_l1, affinity_maps
from famkern.ops.affinity import reference

from .errors import relative

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]

# images, teacher's channels, student's, pooled rows, columns, teacher_pool, student_pool, rows and columns left over
CASES = [
    (1, 3, 3, 9, 10, 8, 4, 0, 0),
    (1, 1, 1, 1, 1, 1, 1, 0, 0),
    (2, 5, 3, 1, 67, 3, 2, 1, 1),  # more positions than a tile has
    (2, 2, 9, 13, 1, 2, 5, 0, 3),
    (1, 9, 20, 5, 3, 1, 6, 0, 5),  # more rows of maps than a tile has
]
parametrize = (
    pytest.mark.parametrize("device", DEVICES),
    pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str),
    pytest.mark.parametrize("case", CASES, ids=str),
)


def cases(test):
    for mark in parametrize:
        test = mark(test)
    return test


@pytest.fixture
def kernels():
    return pytest.importorskip("famkern.kernels.affinity")


def features(case: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, int, int]:
    B, Ct, Cs, h, w, pt, ps, above, beside = case
    generator = torch.Generator().manual_seed(hash(case) % 2**31)
    teacher = torch.randn(B, Ct, h * pt + min(above, pt - 1), w * pt + min(beside, pt - 1), generator=generator)
    student = torch.randn(B, Cs, h * ps + min(beside, ps - 1), w * ps + min(above, ps - 1), generator=generator)
    student = student.contiguous(memory_format=torch.channels_last)
    return teacher.to(device, dtype), student.to(device, dtype), pt, ps


def tolerance(*tensors: Tensor) -> float:
    return 1e-13 if any(t.dtype == torch.float64 for t in tensors) else 1e-6


@cases
@pytest.mark.parametrize("normalize", [False, True])
def test_maps(kernels, case, dtype, device, normalize) -> None:
    teacher, student, *pools = features(case, dtype, device)
    for inputs in ((teacher, student, *pools, normalize, True), (None, student, *pools, normalize, False)):
        got, wanted = affinity_maps._triton_maps(*inputs), affinity_maps._maps(*inputs)
        assert [g.dtype for g in got] == [w.dtype for w in wanted]
        assert max(relative(g, w) for g, w in zip(got, wanted, strict=True)) < tolerance(student)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distance", [1e-3, 1e-6])
def test_the_norm_is_right_to_1e_5_where_student_is_near_teacher(kernels, device, distance) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.rand(2, 3, 23, 30, generator=generator)
    teacher = torch.nn.functional.interpolate(student, scale_factor=2)
    student = student + distance * torch.randn(student.shape, generator=generator)
    norms = affinity_maps._triton_maps(teacher.to(device), student.to(device), 8, 4, False, True)[3]
    N = (23 // 4) * (30 // 4)
    loss = torch.linalg.vector_norm(norms) / N**2
    assert relative(loss.cpu(), reference(teacher.double(), student.double())) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_equal_and_permuted_maps(kernels, device) -> None:
    teacher = torch.rand(1, 3, 24, 32).to(device)
    assert float(affinity_maps._triton_maps(teacher, teacher, 4, 4, False, True)[3]) == 0
    size = float(affinity_maps._triton_maps(torch.zeros_like(teacher), teacher, 4, 4, False, True)[3])  # |A(teacher)|
    assert float(affinity_maps._triton_maps(teacher, teacher[:, [2, 0, 1]], 4, 4, False, True)[3]) < 1e-6 * size


@cases
def test_spread(kernels, case, dtype, device) -> None:
    teacher, student, pt, ps = features(case, dtype, device)
    maps = affinity_maps._maps(teacher, student, pt, ps, False, True)[0]
    B, K, _ = maps.shape
    unit = torch.finfo(dtype).eps
    for like, pool in ((student, ps), (teacher, pt)):
        C = like.shape[1]
        coefficients = torch.randn(B, C, K, dtype=torch.float64, device=device)
        for inputs in ((maps, coefficients), (maps[:, :C], None)):
            got = kernels.affinity_spread(*inputs, like, pool)
            assert (got.dtype, got.stride()) == (dtype, torch.empty_like(like).stride())
            wanted = affinity_maps._spread(*inputs, like.double(), pool)
            terms = affinity_maps._spread(*(None if i is None else i.abs() for i in inputs), like.double(), pool)
            assert relative(got, wanted, terms) < max(unit, 1e-13)


@cases
def test_l1(kernels, case, dtype, device) -> None:
    maps = affinity_maps._maps(*features(case, dtype, device), False, True)[0]
    scale = torch.rand(len(maps), dtype=torch.float64, device=device)
    wanted = affinity_l1._l1(maps.double()), affinity_l1._l1_backward(maps.double(), scale)
    assert relative(kernels.affinity_l1(maps), wanted[0]) < tolerance(maps)
    assert relative(kernels.affinity_l1_backward(maps, scale), wanted[1]) < 10 * tolerance(maps)
    expanded = scale[:1].expand(len(maps))  # as the gradient of a sum is
    wanted = affinity_l1._l1_backward(maps.double(), expanded)
    assert relative(kernels.affinity_l1_backward(maps, expanded), wanted) < 10 * tolerance(maps)


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
        [*command, __file__], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " skipped" in result.stdout  # this test
    assert int(result.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1]) > 50
