"""Compare the kernels with float64 on this machine: python -m famkern.selftest [cpu | cuda:0]

Small networks of both families, of random weights, every width and precision that has kernels, on pictures of odd sizes,
whole and under a bound on memory, with means over the picture and over windows; and the feature affinity with its
gradients. Errors may be twice those of PyTorch in the same precision. The last line says what is wrong, and the exit code
1 that something is.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from .dehazer import Dehazer
from .models import Student, UStudent
from .models.student import IMAGE_MEAN, IMAGE_STD, normalise
from .ops import gpu, library
from .ops.affinity import affinity_matrix, feature_affinity_loss, reference
from .ops.route import CHANNELS

RUNS = 3  # of each picture: a GPU captures the second one as a graph, and replays the third
# Error that any result may have: of float32 arithmetic, and in units of the maps' precision, since PyTorch's own error on
# the three numbers of a single pixel may be nothing by chance.
ROUNDING, UNITS = 2e-6, 1 / 16
MAPS = (torch.float32, torch.float16, torch.bfloat16)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{f"{channels} channels": functools.partial(Student, channels, 2, 2) for channels in CHANNELS},
    "a U": functools.partial(UStudent, CHANNELS, (1, 1, 1, 2, 1)),
}


class Wrong(Exception):
    """A result that is not right."""


def check_networks(device: torch.device) -> None:
    """The stages, one after another as networks have them.

    Raises:
        Wrong: for a result that is too far from float64, or not always the same.
    """
    for (what, make), dtype in product(NETWORKS.items(), MAPS):
        torch.manual_seed(0)
        model = make().eval()
        for weights in (p for name, p in model.named_parameters() if "calayer" in name):
            weights.data *= 10  # so that a wrong mean shows
        for size, window in (((1, 1), 0), ((37, 131), 0), ((37, 131), 64)):
            name = f"{what}, {dtype}, {size[1]} x {size[0]}" + f", window {window}" * (window > 0)
            picture = _picture(*size)
            exact = Dehazer(model, device="cpu", dtype=torch.float64, window=window, scale=1)(picture.double())
            theirs = _pytorch(make(window=window or None), model, picture, device, dtype)
            dehazer, where = Dehazer(model, device=device, dtype=dtype, window=window, scale=1), picture.to(device)
            first = dehazer(where)
            _compare(name, first, exact, theirs, ROUNDING + UNITS * torch.finfo(dtype).eps)
            if not all(torch.equal(first, dehazer(where)) for _ in range(RUNS - 1)):
                raise Wrong(f"{name}: repeated runs differ")
            if not torch.equal(first, dehazer.limited(dehazer.least_memory(*size))(where)):
                raise Wrong(f"{name}: bands change the result")


def check_affinity(device: torch.device) -> None:
    """The feature affinity and its gradients, and the matrix. Raises Wrong."""
    options = [{"norm": norm, "normalize": normalize} for norm in ("frobenius", "l1") for normalize in (False, True)]
    for channels, dtype, chosen in product((3, 16), (*MAPS, torch.float64), options):
        torch.manual_seed(channels)
        features = [torch.rand(2, channels, 8 * 9 * s + 1, 8 * 13 * s).to(dtype) for s in (2, 1)]
        wanted = _loss_and_gradients(reference, [f.double() for f in features], **chosen)
        got = _loss_and_gradients(feature_affinity_loss, [f.to(device) for f in features], **chosen)
        student = features[1].detach()
        matrices = (affinity_matrix(s, pool=8) for s in (student.to(device), student.double()))
        for part, g, w in zip(
            ("loss", "teacher's gradient", "student's gradient", "matrix"),
            (*got, next(matrices)),
            (*wanted, next(matrices)),
            strict=True,
        ):
            name = f"feature affinity of {channels} channels, {dtype}, {chosen}, {part}"
            error, limit = float((g.cpu().double() - w).norm() / w.norm()), max(5e-5, 2 * torch.finfo(dtype).eps)
            print(f"{name}: relative error {error:.2g}")
            if not error < limit:
                raise Wrong(f"{name}: relative error {error:.2g}, {limit:.2g} at most")


def _picture(height: int, width: int) -> Tensor:
    """One whose result has little at the ends of its range, where errors would not show: (3, H, W) in [0, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    normalised = 0.5 + 0.15 * torch.randn(3, height, width)  # which is what the network adds its result to
    return (mean + std * normalised).clamp(0, 1)


def _pytorch(
    network: nn.Module, weights: nn.Module, picture: Tensor, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What PyTorch makes of it, all in this precision."""
    network.load_state_dict(weights.state_dict())
    exactly = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exactly:
        normalised = normalise(picture[None].to(device)).to(dtype)
        return network.eval().to(device, dtype)(normalised)[0].clamp(0, 1)


def _compare(name: str, got: Tensor, exact: Tensor, theirs: Tensor, rounding: float) -> None:
    error, usual = (float((t.cpu().double() - exact).square().mean().sqrt()) for t in (got, theirs))
    hidden = float(((exact == 0) | (exact == 1)).double().mean())
    print(f"{name}: error {error:.2g}, of PyTorch {usual:.2g}; {hidden:.0%} at the ends")
    if not error <= 2 * usual + rounding:
        raise Wrong(f"{name}: error {error:.2g}, of PyTorch {usual:.2g}")


def _loss_and_gradients(function: Callable[..., Tensor], features: list[Tensor], **options: object) -> list[Tensor]:
    leaves = [feature.requires_grad_() for feature in features]
    # Scaled, for gradients in the range of float16.
    loss = 1024 * function(*leaves, teacher_pool=16, student_pool=8, scale="rms", **options)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def problem_on(device: torch.device) -> str | None:
    """What is wrong on this device, in a line; None if nothing is."""
    try:
        reason = gpu.why_not(device) if device.type == "cuda" else library.why_not_compiled()
        if reason is not None:
            return f"there are no kernels to try: {reason}"
        check_networks(device)
        check_affinity(device)
    except Exception as error:  # whatever a GPU does wrong; messages of PyTorch have the reason in their first line
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error) else repr(error)
    return None


if __name__ == "__main__":
    os.environ["FAMKERN_GPU"] = "1"  # this is the trial
    os.environ.pop("FAMKERN_REFERENCE", None)
    torch.set_float32_matmul_precision("highest")  # containers exist that say otherwise for every process
    sys.exit(problem_on(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")))
