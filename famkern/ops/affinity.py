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

from collections.abc import Sequence
from typing import Any, Literal

import psutil
import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..numeric import is_whole
from . import gpu
from .affinity_grid import Features, Pool, check_features, check_pool, common_grid
from .affinity_l1 import affinity_l1
from .affinity_maps import affinity_maps

Scale = Literal["paper", "rms"]
Norm = Literal["frobenius", "l1"]


def feature_affinity_loss(
    teacher: Tensor | Sequence[Tensor],
    student: Tensor | Sequence[Tensor],
    *,
    teacher_pool: Pool = 8,
    student_pool: Pool = 4,
    scale: Scale = "paper",
    normalize: bool = False,
    norm: Norm = "frobenius",
    process_group: Any = None,
) -> Tensor:
    """Distance between the affinities of two feature maps (arXiv 2207.11250, the Feature Affinity Module).

    Args:
        teacher: a feature map [B, C_t, H_t, W_t], floating point (float32, float64, float16, bfloat16), any strides; or
            tokens [B, N, C_t]. Or a sequence of these, for several pairs of layers: the loss is the sum over pairs.
        student: [B, C_s, H_s, W_s] or [B, N, C_s], likewise; channel counts and dtypes may differ. As many as of teacher.
        teacher_pool, student_pool: sides of the averaged windows, a number or a pair (rows, columns); incomplete windows
            are left out, as `avg_pool2d` does. Both pooled grids must be the same: H_t // teacher_pool =
            H_s // student_pool >= 1, likewise W. None: the map is averaged to the other one's grid, as
            `adaptive_avg_pool2d` does; if both are None, to the smaller height and the smaller width of the two maps.
            Tokens are not pooled, and take None; beside a map they are the places of its grid, row by row.
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
    _check_options(teacher_pool, student_pool, scale, norm)
    options: tuple[Pool, Pool, Scale, bool, Norm, Any]
    options = (teacher_pool, student_pool, scale, normalize, norm, process_group)
    if isinstance(teacher, Tensor) or not isinstance(teacher, Sequence):
        return _loss_of_pair(teacher, student, *options)
    if isinstance(student, Tensor) or not isinstance(student, Sequence) or not len(teacher) == len(student) > 0:
        given = "one" if isinstance(student, Tensor) else len(student)
        raise ValueError(
            f"teacher has {len(teacher)} layers and student {given}; two sequences of the same length are needed"
        )
    losses = [_loss_of_pair(t, s, *options) for t, s in zip(teacher, student, strict=True)]
    dtype = max((loss.dtype for loss in losses), key=lambda dtype: dtype.itemsize)
    return torch.stack([loss.to(dtype) for loss in losses]).sum()


def _loss_of_pair(
    teacher: Any,
    student: Any,
    teacher_pool: Pool,
    student_pool: Pool,
    scale: Scale,
    normalize: bool,
    norm: Norm,
    process_group: Any,
) -> Tensor:
    """The loss of one layer of the teacher and one of the student."""
    (teacher, teacher_side), (student, student_side) = common_grid(teacher, student, teacher_pool, student_pool)
    N = (student.shape[2] // student_side) * (student.shape[3] // student_side)
    maps, _, _, norms = affinity_maps(
        teacher, student, teacher_side, student_side, normalize=normalize, gram=norm == "frobenius"
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

    Call it as loss(teacher, student) with maps [B, C, H, W], tokens [B, N, C], or sequences of these.
    """

    def __init__(
        self,
        teacher_pool: Pool = 8,
        student_pool: Pool = 4,
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

    def forward(self, teacher: Tensor | Sequence[Tensor], student: Tensor | Sequence[Tensor]) -> Tensor:
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
    if not is_whole(pool) or pool < 1:
        raise ValueError(f"pool is {pool!r}; a whole number >= 1 is accepted")
    check_features(Features("features", features, None))
    if features.dim() != 4 or min(features.shape[2:]) < pool:
        raise ValueError(
            f"features has shape {tuple(features.shape)}; [B, C, H, W], sides of {pool} or more, is accepted"
        )
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


def _check_options(teacher_pool: Pool, student_pool: Pool, scale: str, norm: str) -> None:
    check_pool("teacher_pool", teacher_pool)
    check_pool("student_pool", student_pool)
    if scale not in ("paper", "rms"):
        raise ValueError(f"scale is {scale!r}; 'paper' and 'rms' are accepted")
    if norm not in ("frobenius", "l1"):
        raise ValueError(f"norm is {norm!r}; 'frobenius' and 'l1' are accepted")


def _available(device: torch.device) -> int:
    """Bytes that can be allocated on the device."""
    if device.type == "cuda":
        return gpu.available_memory(device)
    return psutil.virtual_memory().available
