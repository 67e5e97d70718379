"""The feature affinity in CUDA C++ on a GPU: as the operators' implementation for any device; which calls come to it.

The kernels themselves are tested without a GPU by `make emulate` (tests/cuda/affinity.cpp).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from famkern.ops import affinity_maps, library

from .errors import relative

TYPES = (torch.float32, torch.float16, torch.bfloat16)

# images, teacher's channels, student's, pooled rows, columns, teacher_pool, student_pool, rows and columns left over
CASES = [
    (1, 3, 3, 9, 10, 8, 4, 0),
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 5, 3, 1, 67, 3, 2, 1),
    (1, 8, 2, 131, 257, 4, 8, 3),
    (3, 3, 8, 300, 201, 2, 1, 1),
]


def features(case: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, int, int]:
    B, Ct, Cs, h, w, pt, ps, over = case
    generator = torch.Generator().manual_seed(h * w)
    over_t, over_s = min(over, pt - 1), min(over, ps - 1)
    teacher = torch.randn(B, Ct, h * pt + over_t, w * pt + over_t, generator=generator)
    student = torch.randn(B, Cs, h * ps + over_s, w * ps + over_s, generator=generator)
    return teacher.to(device, dtype), student.to(device, dtype), pt, ps


@pytest.fixture
def on_gpu() -> None:
    if library.why_not_cuda() is not None:
        pytest.skip("needs famkern built with nvcc, FAMKERN_CUDA=1, and a driver that is not older")


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_and_gradients(on_gpu, case, dtype, last) -> None:
    teacher, student, pt, ps = features(case, dtype, "cuda")
    if last:
        teacher, student = (f.contiguous(memory_format=torch.channels_last) for f in (teacher, student))
    assert affinity_maps.in_cuda(student, teacher)
    got = affinity_maps._gpu_maps(teacher, student, pt, ps, False, True)
    wanted = affinity_maps._maps(teacher.double(), student.double(), pt, ps, False, True)
    for g, w, bound in zip(got, wanted, (1e-7, 0, 1e-11, 1e-7), strict=True):
        assert relative(g, w) <= bound
    again = affinity_maps._gpu_maps(teacher, student, pt, ps, False, True)
    assert all(map(torch.equal, got, again))

    C, K = student.shape[1], got[0].shape[1]
    coefficients = torch.randn(len(student), C, K, dtype=torch.float64, device="cuda")
    spread = affinity_maps._gpu_spread(got[0], coefficients, student, ps)
    assert (spread.dtype, spread.stride()) == (dtype, torch.empty_like(student).stride())
    right = affinity_maps._spread(got[0], coefficients, student.double(), ps)
    terms = affinity_maps._spread(got[0].abs(), coefficients.abs(), student.double(), ps)
    assert relative(spread, right, terms) <= torch.finfo(dtype).eps


def test_few_channels_go_to_cuda_the_rest_to_triton(monkeypatch) -> None:
    def of(channels: int, dtype: torch.dtype = torch.float32, images: int = 1) -> Tensor:
        return torch.empty(images, channels, 8, 8, dtype=dtype, device="meta")

    monkeypatch.setattr(library, "why_not_cuda", lambda: None)
    assert affinity_maps.in_cuda(of(3), of(8))
    assert affinity_maps.in_cuda(of(3, torch.float16), of(3, torch.bfloat16))
    assert not affinity_maps.in_cuda(of(9))
    assert not affinity_maps.in_cuda(of(3), of(9))
    assert not affinity_maps.in_cuda(of(3), None)
    assert not affinity_maps.in_cuda(of(3, torch.float64))
    assert not affinity_maps.in_cuda(of(3, images=1 << 16))
    monkeypatch.setattr(library, "why_not_cuda", lambda: "not built")
    assert not affinity_maps.in_cuda(of(3))


@pytest.mark.parametrize(
    ("normalize", "gram", "alone"), [(True, True, False), (False, False, False), (False, False, True)]
)
def test_what_cuda_does_not_compute_goes_to_triton(monkeypatch, normalize, gram, alone) -> None:
    monkeypatch.setattr(affinity_maps, "in_cuda", lambda *_: True)
    monkeypatch.setattr(affinity_maps, "_triton_maps", lambda *given: given)
    student = torch.rand(1, 3, 8, 8)
    teacher = None if alone else student
    assert affinity_maps._gpu_maps(teacher, student, 4, 4, normalize, gram)[4:] == (normalize, gram)
