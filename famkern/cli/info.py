"""`famkern info`."""

from __future__ import annotations

import platform

import torch
from torch import nn

from .. import __version__, models
from ..ops import route
from ..ops.library import cpu_features, instruction_set, why_not_compiled
from .terminal import fail


def info() -> None:
    """Show versions, devices, the kernels in use and why, and the weights that come with famkern."""

    def show(name: str, value: str) -> None:
        print(f"{name:<12} {value}")

    try:
        kernels = _describe_cpu_kernels(instruction_set(), why_not_compiled())
        devices = (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
        gpus = {device: route.describe_gpu(device) for device in devices}
    except ValueError as error:
        fail(str(error), code=2)
    show("famkern", __version__)
    show("Python", platform.python_version())
    show("PyTorch", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    show("CPU kernels", kernels)
    for gpu, kernels in gpus.items():
        show(str(gpu), f"{torch.cuda.get_device_name(gpu.index)}, {kernels}")
    if not gpus:
        show("CUDA", "no device found by PyTorch")
    for name in models.available():
        show("weights", models.zoo.summary(name))
        if facts := _describe(models.load(name)):
            show("", facts)
        show("", f"sha256 {models.zoo.checksums()[name]}")


def _describe(network: nn.Module) -> str:
    """What a student's weights say beside their numbers."""
    facts = []
    if side := getattr(network, "scale_side", None):
        facts.append(f"--scale auto brings the longer side near {side} pixels")
    if window := getattr(network, "window", None):
        facts.append(f"channel attention sees windows of {window} pixels")
    return "; ".join(facts)


def _describe_cpu_kernels(isa: str, reason: str | None) -> str:
    if reason:
        return f"PyTorch's operators: {reason}"
    return f"{isa} (this CPU has {cpu_features() or 'no vector extensions famkern knows'})"
