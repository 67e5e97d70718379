"""Pooled feature maps in the form in which affinities are accurate, with their Gram matrices.

    S' = means of the student over student_pool x student_pool windows, flattened      # [B, C, N]
    T' = the same of the teacher; the narrower of the two has zero channels added      # [B, C, N]
    maps = [S' - T'; S' + T']                                                           # [B, 2 C, N]
    gram = maps maps^T                                                                  # [B, 2 C, 2 C] float64

With D = S' - T' and E = S' + T' the difference of affinities is A(S') - A(T') = (D^T E + E^T D) / 2: everything that a
loss needs, without the subtraction of two nearly equal N x N matrices. Its Frobenius norm is a sum over gram,

    norm^2 = 1/4 sum of gram * swap(gram)         swap exchanges the halves of rows and of columns

and the gradient of norm^2 with respect to maps is swap(gram) maps, so that the way back needs gram and maps alone.
Without a teacher maps is S' itself, for the affinity matrix.

`affinity_spread` is the way back through the pooling: it repeats pooled gradients over their windows.

Source: Mitheran, Suresh, Nisha, Gopi, "Rich Feature Distillation with Feature Affinity Module for Efficient Image
Dehazing", arXiv 2207.11250. The identity is derived in docs/fam.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

from . import gpu, library
from .library import LIBRARY

LIBRARY.define(
    "affinity_maps(Tensor? teacher, Tensor student, int teacher_pool, int student_pool, bool normalize, bool gram)"
    " -> (Tensor maps, Tensor inverse, Tensor gram, Tensor norms)"
)
LIBRARY.define("affinity_spread(Tensor maps, Tensor? coefficients, Tensor like, int pool) -> Tensor")


def affinity_maps(
    teacher: Tensor | None,
    student: Tensor,
    teacher_pool: int = 1,
    student_pool: int = 1,
    *,
    normalize: bool = False,
    gram: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool both feature maps and accumulate their Gram matrices, in one pass over each.

    Args:
        teacher: [B, C_t, H_t, W_t], any strides; float32, float64, float16 or bfloat16. None: the student alone.
        student: [B, C_s, H_s, W_s], likewise.
        teacher_pool, student_pool: window sides, with equal H_t // teacher_pool = H_s // student_pool and likewise W.
        normalize: divide each position's vector of channels by its length, as `torch.nn.functional.normalize` does.
        gram: whether to compute the Gram matrices and norms; otherwise they come back with no entries.

    Returns:
        maps: [B, K, N], K = 2 max(C_t, C_s), or C_s without a teacher; float64 if an input is, else float32.
        inverse: with normalize, what the student's, then the teacher's positions were multiplied with, [B, 1 or 2, N].
        gram: [B, K, K] float64, on the CPU of the unrounded maps.
        norms: [B] float64: the Frobenius norm of A(S') - A(T') of each image; 0 where only rounding is left.

    Gradients reach teacher and student through maps and norms (0 where the norm is 0); a second derivative raises
    RuntimeError, and so does a forward-mode one.
    """
    library.refuse_forward_mode(teacher, student)
    return torch.ops.famkern.affinity_maps(teacher, student, int(teacher_pool), int(student_pool), normalize, gram)


def swap(gram: Tensor) -> Tensor:
    """Exchange the halves of the rows and of the columns: X gram X for X = [[0, I], [I, 0]]."""
    C = gram.shape[-1] // 2
    return gram.roll((C, C), (-2, -1))


# Affinities can be equal though features are not (S' = Q T', Q orthogonal). The terms of norm^2 then cancel and leave
# rounding, measured at up to 2^-51 of their magnitude: under this fraction the norm is 0.
ROUNDING = 2.0**-48


def norms_of(gram: Tensor) -> Tensor:
    """The output `norms` from gram: [B, 2 C, 2 C] -> [B]."""
    terms = gram * swap(gram)
    square, magnitude = terms.sum(-1).sum(-1), terms.abs().sum(-1).sum(-1)
    rounding = (square <= ROUNDING * magnitude) & magnitude.isfinite()  # NaN and infinity stay
    return (square / 4).masked_fill(rounding, 0).sqrt()


def maps_type(*features: Tensor | None) -> torch.dtype:
    """Precision of maps made from these: float64 if one of them is, else float32."""
    return torch.float64 if any(f is not None and f.dtype == torch.float64 for f in features) else torch.float32


# ---- any device ------------------------------------------------------------------------------------------------------


def _pooled(features: Tensor, pool: int) -> Tensor:
    """[B, C, H, W] -> float64 [B, C, N], incomplete windows left out as `avg_pool2d` does."""
    H, W = features.shape[2] // pool, features.shape[3] // pool
    windows = features[..., : H * pool, : W * pool].unflatten(3, (W, pool)).unflatten(2, (H, pool))
    return windows.sum((3, 5), dtype=torch.float64).flatten(2) / pool**2


def _maps(
    teacher: Tensor | None, student: Tensor, teacher_pool: int, student_pool: int, normalize: bool, gram: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if student.device.type == "cpu":
        library.announce_missing_kernels()
    dtype = maps_type(teacher, student)
    pooled = [_pooled(student, student_pool)]
    if teacher is not None:
        pooled.append(_pooled(teacher, teacher_pool))
    inverse = student.new_empty((student.shape[0], 0, pooled[0].shape[2]), dtype=dtype)
    if normalize:
        lengths = torch.stack([p.norm(dim=1) for p in pooled], 1).clamp_min(1e-12)  # [B, 1 or 2, N]
        pooled = [p / lengths[:, i, None] for i, p in enumerate(pooled)]
        inverse = (1 / lengths).to(dtype)
    maps = pooled[0]
    if teacher is not None:
        C = max(p.shape[1] for p in pooled)
        s, t = (F.pad(p, (0, 0, 0, C - p.shape[1])) for p in pooled)
        maps = torch.cat([s - t, s + t], 1)
    K = maps.shape[1]
    grams = maps @ maps.mT if gram else maps.new_empty(0, K, K)
    return maps.to(dtype), inverse, grams, norms_of(grams)


def _spread(maps: Tensor, coefficients: Tensor | None, like: Tensor, pool: int) -> Tensor:
    H, W = like.shape[2] // pool, like.shape[3] // pool
    pooled = maps if coefficients is None else (coefficients @ maps.double())
    grid = (pooled / pool**2).to(like.dtype).unflatten(2, (H, W))
    gradient = torch.zeros_like(like)
    gradient[..., : H * pool, : W * pool] = repeat(grid, "b c y x -> b c (y i) (x j)", i=pool, j=pool)
    return gradient


LIBRARY.impl("affinity_maps", _maps, "CompositeExplicitAutograd")
LIBRARY.impl("affinity_spread", _spread, "CompositeExplicitAutograd")

# ---- CUDA ------------------------------------------------------------------------------------------------------------


def on_gpu(plain: Callable[..., Any], kernels: Callable[..., Any]) -> Callable[..., Any]:
    """What to register for CUDA tensors: the kernels for GPUs where they are used, elsewhere what runs on any device."""

    def run(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        reason = gpu.why_not(device)
        if reason is not None:
            library.announce("the feature affinity runs in plain PyTorch", reason)
        return (kernels if reason is None else plain)(*arguments)

    return run


def triton_kernels() -> Any:
    """Imported when a CUDA tensor first needs them."""
    from ..kernels import affinity

    return affinity


def _triton_maps(
    teacher: Tensor | None, student: Tensor, teacher_pool: int, student_pool: int, normalize: bool, gram: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = maps_type(teacher, student)
    maps, inverse, grams = triton_kernels().affinity_maps(
        teacher, student, teacher_pool, student_pool, normalize, gram, dtype
    )  # fmt: skip
    return maps, inverse, grams, norms_of(grams)


# CUDA C++ reads each feature map once for the maps and their Gram matrices together; pairs of few channels, such as
# pictures, keep all entries of these in a block of threads. Triton has the rest.
CUDA_CHANNELS = 8
CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
if library.has_cuda_stages():
    LIBRARY.define(
        "affinity_maps_cuda(Tensor teacher, Tensor student, int teacher_pool, int student_pool,"
        " Tensor(a!) maps, Tensor(b!) gram) -> ()"
    )
    LIBRARY.define("affinity_spread_cuda(Tensor maps, Tensor coefficients, Tensor(a!) gradient, int pool) -> ()")


def in_cuda(features: Tensor, *others: Tensor | None) -> bool:
    """Whether CUDA C++ has kernels for these feature maps, all given; Triton has, for whatever it lacks."""
    return (
        library.why_not_cuda() is None
        and all(f is not None and f.shape[1] <= CUDA_CHANNELS and f.dtype in CUDA_DTYPES for f in (features, *others))
        and features.shape[0] < 1 << 16
        and features.shape[2] * features.shape[3] < 1 << 31
    )


def _gpu_maps(
    teacher: Tensor | None, student: Tensor, teacher_pool: int, student_pool: int, normalize: bool, gram: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if teacher is None or normalize or not gram or not in_cuda(student, teacher):
        return _triton_maps(teacher, student, teacher_pool, student_pool, normalize, gram)
    B, K = student.shape[0], 2 * max(student.shape[1], teacher.shape[1])
    N = (student.shape[2] // student_pool) * (student.shape[3] // student_pool)
    maps = student.new_empty((B, K, N), dtype=torch.float32)
    inverse = student.new_empty((B, 0, N), dtype=torch.float32)
    grams = student.new_empty((B, K, K), dtype=torch.float64)
    torch.ops.famkern.affinity_maps_cuda(teacher, student, teacher_pool, student_pool, maps, grams)
    return maps, inverse, grams, norms_of(grams)


def _gpu_spread(maps: Tensor, coefficients: Tensor | None, like: Tensor, pool: int) -> Tensor:
    if coefficients is None or maps.dtype != torch.float32 or maps.shape[1] > 2 * CUDA_CHANNELS or not in_cuda(like):
        return triton_kernels().affinity_spread(maps, coefficients, like, pool)
    covered = like.shape[2] % pool == 0 and like.shape[3] % pool == 0
    gradient = torch.empty_like(like) if covered else torch.zeros_like(like)
    torch.ops.famkern.affinity_spread_cuda(maps.contiguous(), coefficients.contiguous(), gradient, pool)
    return gradient


LIBRARY.impl("affinity_maps", on_gpu(_maps, _gpu_maps), "CUDA")
LIBRARY.impl("affinity_spread", on_gpu(_spread, _gpu_spread), "CUDA")

# ---- shapes ----------------------------------------------------------------------------------------------------------


@torch.library.register_fake("famkern::affinity_maps", lib=LIBRARY)
def _(
    teacher: Tensor | None, student: Tensor, teacher_pool: int, student_pool: int, normalize: bool, gram: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, C, H, W = student.shape
    N = (H // student_pool) * (W // student_pool)
    count = 1 if teacher is None else 2
    K = C if teacher is None else 2 * max(C, teacher.shape[1])
    dtype = maps_type(teacher, student)
    return (
        student.new_empty((B, K, N), dtype=dtype),
        student.new_empty((B, count if normalize else 0, N), dtype=dtype),
        student.new_empty((B if gram else 0, K, K), dtype=torch.float64),
        student.new_empty((B if gram else 0,), dtype=torch.float64),
    )


@torch.library.register_fake("famkern::affinity_spread", lib=LIBRARY)
def _(maps: Tensor, coefficients: Tensor | None, like: Tensor, pool: int) -> Tensor:
    return torch.empty_like(like)


# ---- gradients -------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    teacher, student, ctx.teacher_pool, ctx.student_pool, ctx.normalize, ctx.gram = inputs
    maps, inverse, gram, norms = output
    ctx.alone = teacher is None
    # A map that needs no gradient is not kept alive.
    wanted = [f if needed else None for f, needed in zip((teacher, student), ctx.needs_input_grad, strict=False)]
    ctx.save_for_backward(*wanted, maps, inverse, gram, norms)
    ctx.mark_non_differentiable(inverse, gram, *(() if ctx.gram else (norms,)))
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_maps: Tensor | None, _inverse: Tensor | None, _gram: Tensor | None, grad_norms: Tensor | None
) -> tuple[Tensor | None, ...]:
    teacher, student, maps, inverse, gram, norms = ctx.saved_tensors
    coefficients = None
    if grad_norms is not None and ctx.gram:
        slope = (grad_norms / (2 * norms)).masked_fill(norms == 0, 0)  # of norm^2
        coefficients = swap(gram) * slope[:, None, None]  # [B, K, K]
        if grad_maps is not None:  # both: one dense gradient
            grad_maps, coefficients = grad_maps + (coefficients @ maps.double()).to(maps.dtype), None
    if grad_maps is None and coefficients is None:
        return (None,) * 6
    C = maps.shape[1] if ctx.alone else maps.shape[1] // 2

    def half(of: Tensor, sign: int, channels: int) -> Tensor:
        """From D = S' - T' and E = S' + T' to one of them: sign 1 is S', -1 is T'."""
        if ctx.alone:
            return of
        return (
            (of[:, C : C + channels] + of[:, :channels]) if sign > 0 else (of[:, C : C + channels] - of[:, :channels])
        )

    def gradient(like: Tensor | None, sign: int, pool: int) -> Tensor | None:
        if like is None:
            return None
        channels = like.shape[1]
        if coefficients is not None and not ctx.normalize:
            return torch.ops.famkern.affinity_spread(maps, half(coefficients, sign, channels), like, pool)
        if coefficients is not None:
            pooled = half(coefficients, sign, channels) @ maps.double()
        else:
            assert grad_maps is not None
            pooled = half(grad_maps, sign, channels).double() if ctx.normalize else half(grad_maps, sign, channels)
        if ctx.normalize:  # what points along the unit vector does not change it
            unit = half(maps.double(), sign, channels) / (1 if ctx.alone else 2)
            pooled = pooled - unit * (unit * pooled).sum(1, keepdim=True)
            pooled = pooled * inverse[:, 0 if sign > 0 else 1, None]
        return torch.ops.famkern.affinity_spread(pooled, None, like, pool)

    return gradient(teacher, -1, ctx.teacher_pool), gradient(student, 1, ctx.student_pool), None, None, None, None


def refuse_second_derivative(_ctx: Any, *_grads: Tensor) -> None:
    """The backward of a backward operator."""
    raise RuntimeError("famkern's affinity operators have no second derivative; use famkern.ops.affinity.reference")


torch.library.register_autograd("famkern::affinity_maps", _backward, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("famkern::affinity_spread", refuse_second_derivative, lib=LIBRARY)
