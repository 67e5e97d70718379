"""Compare the kernels with float64 on this machine: python -m famkern.selftest [cpu | cuda:0]

Small networks of random weights, of every width and precision that has kernels, on pictures of odd sizes, whole and under a
bound on memory, with means over the picture and over windows; and the feature affinity with its gradients. Errors may be
twice those of PyTorch in the same precision. The last line says what is wrong, and the exit code 1 that
something is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from .dehazer import Dehazer
from .models import Student
from .models.student import normalise
from .ops.affinity import feature_affinity_loss, reference

RUNS = 3  # of each picture: a GPU captures the second one as a graph, and replays the third
ROUNDING = 2e-6  # error that any float32 result may have


class Wrong(Exception):
    """A result that is not right."""


def check_networks(device: torch.device) -> None:
    """The stages, one after another as networks have them.

    Raises:
        Wrong: for a result that is too far from float64, or not always the same.
    """
    halves = (torch.float16, torch.bfloat16)
    for channels, dtype in [(16, torch.float32), *product((16,), halves), (32, halves[0]), (64, halves[0])]:
        torch.manual_seed(channels)
        model = Student(channels, 2, 2).eval()
        for weights in (p for name, p in model.named_parameters() if "calayer" in name):
            weights.data *= 10  # so that a wrong mean shows
        for size, window in (((1, 1), 0), ((67, 131), 0), ((67, 131), 32)):
            name = f"{channels} channels, {dtype}, {size[1]} x {size[0]}" + f", window {window}" * (window > 0)
            picture = torch.rand(3, *size)
            exact = Dehazer(model, device="cpu", dtype=torch.float64, window=window)(picture.double())
            theirs = _pytorch(Student(channels, 2, 2, window=window or None), model, picture, device, dtype)
            dehazer, where = Dehazer(model, device=device, dtype=dtype, window=window), picture.to(device)
            first = dehazer(where)
            _compare(name, first, exact, theirs)
            if not all(torch.equal(first, dehazer(where)) for _ in range(RUNS - 1)):
                raise Wrong(f"{name}: repeated runs differ")
            if not torch.equal(first, dehazer.limited(dehazer.least_memory(*size))(where)):
                raise Wrong(f"{name}: bands change the result")


def check_affinity(device: torch.device) -> None:
    """The feature affinity and its gradients. Raises Wrong."""
    for channels, dtype in product((3, 16), (torch.float32, torch.float16)):
        name = f"feature affinity of {channels} channels, {dtype}"
        torch.manual_seed(channels)
        features = [torch.rand(2, channels, 8 * 9 * s + 1, 8 * 13 * s).to(dtype) for s in (2, 1)]
        wanted = _loss_and_gradients(reference, [f.double() for f in features])
        got = _loss_and_gradients(feature_affinity_loss, [f.to(device) for f in features])
        for g, w in zip(got, wanted, strict=True):
            error = float((g.cpu().double() - w).norm() / w.norm())
            if not error < max(1e-5, 2 * torch.finfo(dtype).eps):
                raise Wrong(f"{name}: relative error {error:.2g}")


def _loss_and_gradients(function: Callable[..., Tensor], features: list[Tensor]) -> list[Tensor]:
    leaves = [feature.requires_grad_() for feature in features]
    loss = 1024 * function(*leaves, teacher_pool=16, student_pool=8, scale="rms")  # gradients in the range of float16
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def _pytorch(network: Student, weights: Student, picture: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What PyTorch makes of it, all in this precision."""
    network.load_state_dict(weights.state_dict())
    with torch.inference_mode():
        normalised = normalise(picture[None].to(device)).to(dtype)
        return network.eval().to(device, dtype)(normalised)[0].clamp(0, 1)


def _compare(name: str, got: Tensor, exact: Tensor, theirs: Tensor) -> None:
    error, limit = (float((t.cpu().double() - exact).square().mean().sqrt()) for t in (got, theirs))
    print(f"{name}: error {error:.2g}, of PyTorch {limit:.2g}")
    if not error <= 2 * limit + ROUNDING:
        raise Wrong(f"{name}: error {error:.2g}, of PyTorch {limit:.2g}")


def main(device: str) -> None:
    """Check everything on this device; exits with a line and code 1 if something is wrong."""
    try:
        check_networks(torch.device(device))
        check_affinity(torch.device(device))
    except Wrong as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
