"""The loss between maps of any two sizes, pools that are no squares, tokens, and several pairs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from famkern.ops.affinity import FeatureAffinityLoss, feature_affinity_loss, reference

SMALL_POOLS = {"teacher_pool": 1, "student_pool": 1}


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def same(loss: Tensor, wanted: Tensor, *inputs: Tensor) -> None:
    """Equal in value and in gradients."""
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
    for got, right in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"norm": "l1", "scale": "rms", "normalize": True}])
@pytest.mark.parametrize(
    ("sizes", "pools", "grid"),
    [
        (((20, 28), (11, 15)), (None, None), (11, 15)),
        (((20, 9), (11, 15)), (None, None), (11, 9)),
        (((24, 32), (6, 8)), (None, None), (6, 8)),  # divides: the operators pool
        (((24, 32), (6, 16)), (None, None), (6, 16)),  # divides, but not into squares
        (((21, 30), (9, 14)), (None, 4), (2, 3)),
        (((21, 30), (9, 14)), (5, None), (4, 6)),
        (((21, 30), (9, 14)), ((4, 6), (1, 2)), None),
        (((7, 30), (7, 15)), ((7, 2), (7, 1)), (1, 15)),
    ],
)
def test_maps_of_different_sizes_are_averaged_to_one_grid(sizes, pools, grid, options) -> None:
    teacher, student = maps(2, 3, *sizes[0]), maps(2, 5, *sizes[1])
    if (sizes, pools) == (((21, 30), (9, 14)), ((4, 6), (1, 2))):
        with pytest.raises(
            ValueError, match=r"pooled grids differ: .* gives 5 x 5, .* gives 9 x 7; .* or one pool None"
        ):
            feature_affinity_loss(teacher, student, teacher_pool=pools[0], student_pool=pools[1])
        return
    averaged = [
        F.adaptive_avg_pool2d(features, grid) if pool is None else F.avg_pool2d(features, pool)
        for features, pool in ((teacher, pools[0]), (student, pools[1]))
    ]
    loss = feature_affinity_loss(teacher, student, teacher_pool=pools[0], student_pool=pools[1], **options)
    same(loss, reference(*averaged, **SMALL_POOLS, **options), teacher, student)


def test_tokens_are_the_places_of_a_grid() -> None:
    teacher, student = maps(2, 12, 7), maps(2, 12, 5)  # [B, N, C]
    as_maps = [tokens.mT.unflatten(2, (3, 4)) for tokens in (teacher, student)]
    none = {"teacher_pool": None, "student_pool": None}
    same(feature_affinity_loss(teacher, student, **none), reference(*as_maps, **SMALL_POOLS), teacher, student)
    image = maps(2, 5, 13, 17)
    wanted = reference(as_maps[0], F.adaptive_avg_pool2d(image, (3, 4)), **SMALL_POOLS)
    same(feature_affinity_loss(teacher, image, **none), wanted, teacher, image)
    wanted = reference(F.avg_pool2d(image, (6, 4)), maps_of(student, 2, 4), **SMALL_POOLS)
    same(feature_affinity_loss(image, student[:, :8], teacher_pool=(6, 4), student_pool=None), wanted, image, student)


def maps_of(tokens: Tensor, rows: int, columns: int) -> Tensor:
    return tokens[:, : rows * columns].mT.unflatten(2, (rows, columns))


@pytest.mark.parametrize(
    ("teacher", "student", "pools", "message"),
    [
        ((1, 12, 3), (1, 13, 3), (None, None), "grids differ"),
        (
            (1, 13, 3),
            (1, 3, 24, 32),
            (None, None),
            "13 tokens are no grid; drop tokens of no place, such as a class token",
        ),
        ((1, 12, 3), (1, 3, 24, 32), (None, 4), r"gives 6 x 8, and teacher has 12 tokens; they must be as many"),
        ((1, 3, 24, 32), (1, 3, 4, 32), (4, None), "student .* fewer rows or columns than the grid of 6 x 8; a larger"),
    ],
)
def test_what_has_no_common_grid_is_refused(teacher, student, pools, message) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        feature_affinity_loss(torch.rand(teacher), torch.rand(student), teacher_pool=pools[0], student_pool=pools[1])
    assert "\n" not in str(raised.value)


def test_several_layers_add_up() -> None:
    teachers, students = [maps(1, 3, 16, 24), maps(1, 8, 8, 12)], [maps(1, 4, 8, 12), maps(1, 5, 4, 6)]
    module = FeatureAffinityLoss(4, 2, scale="rms")
    same(module(teachers, students), sum(map(module, teachers, students)), *teachers, *students)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_is_lost_in_no_average(dtype) -> None:
    teacher, student = torch.randn(1, 3, 33, 47).to(dtype), torch.randn(1, 3, 16, 31).to(dtype)
    for pools in ((None, None), ((4, 3), (2, 2))):
        options = {"teacher_pool": pools[0], "student_pool": pools[1]}
        got = feature_affinity_loss(teacher, student, **options)
        assert got.dtype == torch.float32
        wanted = feature_affinity_loss(teacher.double(), student.double(), **options)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=0)


def test_it_compiles_as_one_graph_and_is_checkpointed() -> None:
    teacher, student = torch.randn(1, 3, 33, 47), torch.randn(1, 3, 16, 31, requires_grad=True)
    tokens = torch.randn(1, 12, 3)

    def loss(teacher: Tensor, student: Tensor, tokens: Tensor) -> Tensor:
        module = FeatureAffinityLoss(None, None)
        return module(teacher, student) + module(tokens, student) + module(teacher[..., :16, :], student[..., :2, :])

    (wanted,) = torch.autograd.grad(loss(teacher, student, tokens), student)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(teacher, student, tokens), student)
    torch.testing.assert_close(got, wanted)
    checkpointed = torch.utils.checkpoint.checkpoint(loss, teacher, student, tokens, use_reentrant=False)
    assert torch.equal(*torch.autograd.grad(checkpointed, student), wanted)
