"""The Feature Affinity Module: how differently two feature maps relate their positions to each other.

    T' = flatten(avg_pool2d(teacher, teacher_pool))                          # [B, C_t, N]
    S' = flatten(avg_pool2d(student, student_pool))                          # [B, C_s, N]
    A(F) = F^T F                                                             # [B, N, N], position x position
    loss = || A(S') - A(T') ||_F / N^2                                       Frobenius norm over the whole batch

Neither matrix is ever formed. The squared norm is a sum over C x C matrices, O(N C^2) work and O(N C) memory: see
docs/fam.md for the identity and affinity_maps.py for the operator. The norm "l1" has no such identity and visits all
pairs of positions in tiles: affinity_l1.py.

Source: Mitheran, Suresh, Nisha, Gopi, "Rich Feature Distillation with Feature Affinity Module for Efficient Image
Dehazing", arXiv 2207.11250; L1 and cosine-normalised affinities: FAKD, ICIP 2020.
"""

from __future__ import annotations

from typing import Any, Literal

import psutil
import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..numeric import is_whole
from . import gpu
from .affinity_l1 import affinity_l1
from .affinity_maps import affinity_maps

Scale = Literal["paper", "rms"]
Norm = Literal["frobenius", "l1"]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def feature_affinity_loss(
    teacher: Tensor,
    student: Tensor,
    *,
    teacher_pool: int = 8,
    student_pool: int = 4,
    scale: Scale = "paper",
    normalize: bool = False,
    norm: Norm = "frobenius",
    process_group: Any = None,
) -> Tensor:
    """Distance between the affinities of two feature maps (arXiv 2207.11250, the Feature Affinity Module).

    Args:
        teacher: [B, C_t, H_t, W_t] floating point (float32, float64, float16, bfloat16), any strides.
        student: [B, C_s, H_s, W_s], likewise; channel counts and dtypes may differ.
        teacher_pool, student_pool: sides of the averaged windows; incomplete windows are left out, as `avg_pool2d`
            does. Both pooled grids must be the same: H_t // teacher_pool = H_s // student_pool >= 1, likewise W.
        scale: "paper" divides the norm by N^2, N the number of pooled positions, as published: the loss shrinks with
            the image. "rms" makes it independent of the size: the root mean square difference of affinities (divided
            by N sqrt(B)), or with norm="l1" the mean absolute difference (divided by N^2 B).
        normalize: compare cosines: each position's channels divided by their length (FAKD, ICIP 2020).
        norm: "frobenius", O(N C^2) work, or "l1" (FAKD), O(N^2 C). Both need O(N C + C^2) memory beyond the gradients.
        process_group: a torch.distributed group whose ranks hold parts of one batch, all with the same pooled grid:
            the norm is then over the whole batch and every rank returns the same loss. Gradients are scaled so that
            averaging them over the ranks, as DistributedDataParallel does, gives the gradient of that loss.

    Returns:
        A scalar: float64 if an input is, else float32. 0, with gradient 0, where affinities are equal.
        Both arguments receive gradients; a gradient of the gradient, or a forward-mode derivative, raises RuntimeError.

    Raises:
        ValueError, TypeError: shapes, sizes, options or dtypes that are not as above.
    """
    _check(teacher, student, teacher_pool, student_pool, scale, norm)
    N = (student.shape[2] // student_pool) * (student.shape[3] // student_pool)
    maps, _, _, norms = affinity_maps(
        teacher, student, teacher_pool, student_pool, normalize=normalize, gram=norm == "frobenius"
    )
    batch: int | Tensor = student.shape[0]
    if norm == "frobenius":
        total = torch.linalg.vector_norm(norms)  # over the batch; its gradient at 0 is 0
    else:
        total = affinity_l1(maps).sum()
    if process_group is not None:
        total, batch = _GlobalNorm.apply(total, batch, 2 if norm == "frobenius" else 1, process_group)
    divisor: int | Tensor = N * N
    if scale == "rms":
        divisor = N * batch**0.5 if norm == "frobenius" else N * N * batch
    return (total / divisor).to(maps.dtype)


class FeatureAffinityLoss(nn.Module):
    """`feature_affinity_loss` as a module; see there for the options and errors.

    Call it as loss(teacher, student) with [B, C, H, W] maps.
    """

    def __init__(
        self,
        teacher_pool: int = 8,
        student_pool: int = 4,
        scale: Scale = "paper",
        *,
        normalize: bool = False,
        norm: Norm = "frobenius",
        process_group: Any = None,
    ) -> None:
        super().__init__()
        _check_options(teacher_pool, student_pool, scale, norm)
        self.options: dict[str, Any] = {
            "teacher_pool": teacher_pool,
            "student_pool": student_pool,
            "scale": scale,
            "normalize": normalize,
            "norm": norm,
        }
        self.process_group = process_group

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """[B, C_t, H_t, W_t], [B, C_s, H_s, W_s] -> scalar."""
        return feature_affinity_loss(teacher, student, **self.options, process_group=self.process_group)

    def extra_repr(self) -> str:
        """The options, for print(module)."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def affinity_matrix(features: Tensor, *, pool: int = 1, normalize: bool = False) -> Tensor:
    """The affinity matrix F^T F of pooled features, for looking at it: one entry for each pair of positions.

    Args:
        features: [B, C, H, W] floating point, any strides.
        pool: side of the averaged windows; incomplete windows are left out.
        normalize: cosines instead of products.

    Returns:
        [B, N, N], N = (H // pool) (W // pool), positions row by row; float64 if features is, else float32.
        Differentiable once.

    Raises:
        MemoryError: the matrix needs more bytes than are available; the message says how many.
        ValueError, TypeError: as `feature_affinity_loss`.
    """
    _check_map("features", features, "pool", pool)
    N = (features.shape[2] // pool) * (features.shape[3] // pool)
    needed = features.shape[0] * N * N * (8 if features.dtype == torch.float64 else 4)
    available = None if torch.compiler.is_compiling() else _available(features.device)
    if available is not None and needed > available:
        raise MemoryError(
            f"affinity_matrix: {features.shape[0]} x {N} x {N} entries need {needed} bytes, {available} are available;"
            f" a larger pool than {pool} needs fewer"
        )
    maps, *_ = affinity_maps(None, features, student_pool=pool, normalize=normalize, gram=False)
    with torch.autocast(maps.device.type, enabled=False):
        return maps.mT @ maps


def reference(
    teacher: Tensor,
    student: Tensor,
    *,
    teacher_pool: int = 8,
    student_pool: int = 4,
    scale: Scale = "paper",
    normalize: bool = False,
    norm: Norm = "frobenius",
) -> Tensor:
    """The paper's formula as it is written, with its N x N matrices: what `feature_affinity_loss` must equal."""

    def affinity(features: Tensor, pool: int) -> Tensor:
        positions = rearrange(F.avg_pool2d(features, pool), "b c y x -> b c (y x)")
        if normalize:
            positions = F.normalize(positions, dim=1)
        return einsum(positions, positions, "b c i, b c j -> b i j")

    difference = affinity(student, student_pool) - affinity(teacher, teacher_pool)
    B, N, _ = difference.shape
    if norm == "l1":
        return difference.abs().sum() / (N**2 if scale == "paper" else N**2 * B)
    return torch.linalg.vector_norm(difference) / (N**2 if scale == "paper" else N * B**0.5)


class _GlobalNorm(torch.autograd.Function):
    """The norm over all ranks' images from the norm over each rank's own, and the number of all images.

    Each rank differentiates its own term, times the number of ranks, by which averaging over them divides.
    """

    @staticmethod
    def forward(ctx: Any, norm: Tensor, images: int, power: int, group: Any) -> tuple[Tensor, Tensor]:
        sums = torch.stack([norm**power, norm.new_tensor(float(images))])
        torch.distributed.all_reduce(sums, group=group)
        total = sums[0] ** (1 / power)
        slope = (norm / total) ** (power - 1)  # d total / d norm
        ctx.slope = torch.distributed.get_world_size(group) * slope.masked_fill(total == 0, 0)
        ctx.mark_non_differentiable(images_of_all := sums[1])
        return total, images_of_all

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _images: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.slope, None, None, None


def _check(teacher: Tensor, student: Tensor, teacher_pool: int, student_pool: int, scale: str, norm: str) -> None:
    _check_options(teacher_pool, student_pool, scale, norm)
    _check_map("teacher", teacher, "teacher_pool", teacher_pool)
    _check_map("student", student, "student_pool", student_pool)
    if teacher.device != student.device:
        raise ValueError(f"teacher is on {teacher.device} and student on {student.device}; the same device is needed")
    if teacher.shape[0] != student.shape[0]:
        raise ValueError(
            f"teacher has {teacher.shape[0]} images and student {student.shape[0]}; equal numbers are needed"
        )
    grids = [(f.shape[2] // p, f.shape[3] // p) for f, p in ((teacher, teacher_pool), (student, student_pool))]
    if grids[0] != grids[1]:
        (ht, wt), (hs, ws) = grids
        raise ValueError(
            f"pooled grids differ: teacher {tuple(teacher.shape)} / {teacher_pool} gives {ht} x {wt},"
            f" student {tuple(student.shape)} / {student_pool} gives {hs} x {ws}; they must be the same"
        )


def _check_options(teacher_pool: int, student_pool: int, scale: str, norm: str) -> None:
    for name, pool in (("teacher_pool", teacher_pool), ("student_pool", student_pool)):
        if not is_whole(pool) or pool < 1:
            raise ValueError(f"{name} is {pool!r}; a whole number >= 1 is accepted")
    if scale not in ("paper", "rms"):
        raise ValueError(f"scale is {scale!r}; 'paper' and 'rms' are accepted")
    if norm not in ("frobenius", "l1"):
        raise ValueError(f"norm is {norm!r}; 'frobenius' and 'l1' are accepted")


def _check_map(name: str, features: Tensor, pool_name: str, pool: int) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} is a {type(features).__name__}; a torch.Tensor [B, C, H, W] is accepted")
    if features.dtype not in DTYPES:
        raise TypeError(f"{name} is {features.dtype}; float32, float64, float16 and bfloat16 are accepted")
    if features.dim() != 4 or 0 in features.shape[:2]:
        raise ValueError(f"{name} has shape {tuple(features.shape)}; [B, C, H, W] with B, C >= 1 is accepted")
    if not is_whole(pool) or pool < 1:
        raise ValueError(f"{pool_name} is {pool!r}; a whole number >= 1 is accepted")
    if features.shape[2] < pool or features.shape[3] < pool:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}; H and W of at least {pool_name} = {pool} are accepted"
        )


def _available(device: torch.device) -> int:
    """Bytes that can be allocated on the device."""
    if device.type == "cuda":
        return gpu.available_memory(device)
    return psutil.virtual_memory().available
