"""Whether a network is computed from its parameters as its family says, so that other code may do it in its place."""

from __future__ import annotations

import torch
from torch import nn

from .student import Student
from .u_student import UStudent

OWN = ("torch.", "famkern.models.")  # modules whose classes go by their names


def check(network: Student | UStudent) -> None:
    """Refuse a network that would not compute what its parameters say, and parameters that are no numbers.

    Raises:
        ValueError: as `check_modules`, and for parameters that are not dense floating-point tensors, that lie on PyTorch's
            meta device, or that hold NaN or infinity.
    """
    check_modules(network)
    for name, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"model's {name} is on PyTorch's meta device and holds no numbers: load weights first")
        if name == "window" or name.endswith("num_batches_tracked"):
            continue
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise ValueError(
                f"model's {name} is not a dense floating-point tensor, but {tensor.dtype}, {tensor.layout}"
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"model holds NaN or infinity in {name}: its training diverged")


def check_modules(network: Student | UStudent) -> None:
    """Refuse a network whose modules would not compute what its parameters say.

    Raises:
        ValueError: for modules of another kind than the family's (also subclasses, whose forward may differ, and modules
            whose own forward was replaced), and for parameters of other names or shapes (pruned, weight-normed or
            otherwise re-parametrised).
    """
    with torch.device("meta"):
        if isinstance(network, UStudent):
            family: nn.Module = UStudent(network.widths, network.blocks, network.head, network.norm)
        else:
            family = Student(network.channels, network.groups, network.blocks, network.norm)
    theirs, ours = dict(network.named_modules()), dict(family.named_modules())
    for name in [*ours, *theirs]:
        given, usual = (_kind(modules.get(name)) for modules in (theirs, ours))
        if given != usual:
            where = f"model has {given} as its {name}" if name else f"model is a {given}"
            raise ValueError(f"{where}, where its family has {usual}; famkern computes that, and nothing else")
    state, usual_state = network.state_dict(), family.state_dict()
    names, usual_names = [*state], [*usual_state]
    other = next((n for n in [*names, *usual_names] if n != "window" and (n in names) != (n in usual_names)), None)
    if other is not None:
        raise ValueError(
            f"model {'has' if other in names else 'lacks'} a tensor {other}, unlike its family: make pruned, weight-normed "
            "or otherwise changed weights plain ones first (torch.nn.utils.prune.remove, remove_parametrizations)"
        )
    for name, tensor in usual_state.items():
        if state[name].shape != tensor.shape:
            shape = tuple(state[name].shape)
            raise ValueError(f"model's {name} has the shape {shape}, where its family has {tuple(tensor.shape)}")


def _kind(module: nn.Module | None) -> str:
    """What a module computes: the class whose forward it has, and the settings that count."""
    if module is None:
        return "nothing"
    if "forward" in vars(module):
        return f"{type(module).__name__} with another forward in its place"
    computes = next(parent for parent in type(module).__mro__ if {"forward", "__call__"} & {*vars(parent)})
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and computes.__module__.startswith("torch."):
        return f"BatchNorm2d(eps={module.eps})"
    if computes is nn.Conv2d:
        return f"Conv2d({module.extra_repr()})"
    return (
        computes.__qualname__
        if computes.__module__.startswith(OWN)
        else f"{computes.__module__}.{computes.__qualname__}"
    )
