"""From a name or a checkpoint file to a network.

Checkpoints are read as data only: safetensors, or pickles through torch.load(weights_only=True). A family's numbers
(channels, groups, blocks; widths, blocks and head of a U-shaped one) are read off the tensors, so a file needs no
configuration beside it. A student's window and scale_side may stand in the metadata of a safetensors file, under
"famkern", as JSON: {"window": 192, "scale_side": 960}.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from . import zoo
from .student import Student
from .teacher import Teacher
from .u_student import Head, UStudent
from .zoo import WeightsError

Network = Student | UStudent | Teacher

SUFFIXES = (".safetensors", ".pth", ".pt", ".pk", ".pkl", ".ckpt")

# What training programs put around the tensors: our own and FFA-Net's, Lightning's, BasicSR's (the average first).
WRAPPERS = ("model", "state_dict", "params_ema", "params")
# And before their names: DataParallel; Lightning, for a network that is an attribute of its module, among others.
PREFIXES = ("module.", "model.", "student.", "network.", "net.")
COMPILED = "_orig_mod."  # torch.compile's, anywhere in a name
MARKS = ("pre.0.weight", "red.first_part.0.weight")  # tensors that tell a network

# Training checkpoints of FFA-Net and of the paper's code keep their histories as NumPy scalars. Unpickling those needs
# these constructors and no more; NumPy 1 and 2 wrote the first under different names.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]


def load(path_or_name: str | os.PathLike[str]) -> Network:
    """Load a network.

    Args:
        path_or_name: one of `available()`, or a checkpoint: .safetensors; .pth, .pt, .pk, .pkl or .ckpt as torch.save
            writes them, bare or wrapped as {"model": ...}, {"state_dict": ...}, {"params": ...}, with or without "module.",
            "model.", "student." before the names; so those of DataParallel, torch.compile, Lightning and BasicSR.
            The paper's and FFA-Net's own checkpoints load unchanged.

    Returns:
        The network in float32 on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: if it is neither a name nor a file.
        WeightsError: if the file is not a checkpoint, or not of a network that famkern knows.
    """
    if isinstance(path_or_name, str) and path_or_name in zoo.available():
        return _load(zoo.verified(path_or_name), path_or_name)
    path = Path(path_or_name)
    if not path.is_file():
        names = ", ".join(zoo.available())
        raise FileNotFoundError(f"{path}: no such checkpoint, nor one of the models that come with famkern ({names})")
    return _load(path, str(path))


def _load(path: Path, source: str) -> Network:
    with torch.device("cpu"):  # whatever the default device of the process
        tensors, metadata = read_checkpoint(path)
        window = tensors.pop("window", None)  # of a state dict of ours
        network = build(tensors, source)
    if window is not None and (window.numel() != 1 or window.is_floating_point()):
        raise WeightsError(f"{source}: its window is not a whole number")
    given = metadata.get("window", None if window is None else int(window))
    if isinstance(network, Teacher):
        return network
    try:
        if given is not None:
            network.window = given
        if "scale_side" in metadata:
            network.scale_side = _parse_side(metadata["scale_side"])
    except ValueError as error:
        raise WeightsError(f"{source}: its metadata say: {error}") from error
    return network


def _parse_side(side: object) -> int:
    if type(side) is not int or side < 1:  # a bool is no number
        raise ValueError(f"scale_side is a positive number of pixels, not {side!r}")
    return side


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint file, without wrappers and prefixes; and famkern's metadata, if it holds any.

    Raises:
        WeightsError: if the file cannot be read as a checkpoint.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path}: a checkpoint ends in one of {', '.join(SUFFIXES)}, not in {path.suffix!r}")
    metadata: dict[str, Any] = {}
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                content: object = {name: file.get_tensor(name) for name in names}
                metadata = _parse_metadata(file.metadata())
        else:
            with torch.serialization.safe_globals(_NUMPY_SCALARS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise WeightsError(f"{path}: not a checkpoint that can be read as data ({_reason(error)})") from error
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: a dictionary of tensors expected, {type(content).__name__} found")
    tensors = _without_prefix({str(name).replace(COMPILED, ""): value for name, value in content.items()})
    wrong = next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise WeightsError(
            f"{path}: a dictionary of tensors expected, but {wrong!r} is of type {type(tensors[wrong]).__name__}"
        )
    return tensors, metadata


def _without_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of the network that is known by a mark, without what stands before their names.

    Beside a network that is an attribute of another module there may be others (a teacher, an average), which stay out.
    """
    for mark in MARKS:
        for name in tensors:
            prefix = name.removesuffix(mark)
            rest = prefix
            while known := next((known for known in PREFIXES if rest.startswith(known)), None):
                rest = rest.removeprefix(known)
            if name.endswith(mark) and prefix and not rest:
                return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return dict(tensors)


def _parse_metadata(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Famkern's part of a file's metadata; other programs may have put anything there."""
    try:
        own = json.loads((metadata or {}).get("famkern", "{}"))
    except json.JSONDecodeError:
        return {}
    return own if isinstance(own, dict) else {}


def build(tensors: Mapping[str, Tensor], source: str) -> Network:
    """The network that the tensors belong to, holding them.

    Args:
        tensors: a state dict.
        source: where it came from, for messages.

    Raises:
        WeightsError: if no network of famkern has these tensors, naming the first difference.
    """
    make: Callable[[], nn.Module]
    if "down1.weight" in tensors:
        levels = _count(tensors, "down{}.weight", start=1) + 1
        groups = [*(f"e{i}" for i in range(1, levels + 1)), *(f"d{i}" for i in range(levels - 1, 0, -1))]
        blocks = tuple(_count(tensors, group + ".gp.{}.conv1.weight", start=0) for group in groups)
        widths = tuple(_outputs(tensors, f"e{i}.gp.0.conv1.weight") for i in range(1, levels + 1))
        head: Head = "gain" if _outputs(tensors, "post.0.weight") == 4 else "plain"
        make = partial(UStudent, widths, blocks, head, "batch" if "e1.gp.0.norm1.weight" in tensors else None)
        kind, numbers = "U-shaped student", f" of widths {widths}, blocks {blocks}"
    elif "pre.0.weight" in tensors:
        count = _count(tensors, "g{}.gp.0.conv1.weight", start=1)
        each = _count(tensors, "g1.gp.{}.conv1.weight", start=0)
        channels = _outputs(tensors, "pre.0.weight")
        make = partial(Student, channels, count, each, "batch" if "g1.gp.0.norm1.weight" in tensors else None)
        kind, numbers = "student", f" of {channels} channels, {count} groups, {each} blocks"
    elif "red.first_part.0.weight" in tensors:
        make, kind, numbers = Teacher, "x2 teacher", ""
    else:
        found = ", ".join(list(tensors)[:3]) or "nothing"
        raise WeightsError(
            f"{source}: tensors of a student (pre.0.weight, g1.gp.0.conv1.weight, ...) expected, found {found}"
            f"{', ...' if len(tensors) > 3 else ''}"
        )
    try:
        with torch.device("meta"):
            network = make()
    except ValueError as error:
        raise WeightsError(f"{source}: not a {kind} that famkern knows: {error}") from error
    what, expected = f"a {kind}{numbers}", network.state_dict()
    for name in [*expected, *tensors]:
        if name not in tensors:
            raise WeightsError(f"{source}: {what} has a tensor {name}, which the file lacks")
        if name not in expected:
            raise WeightsError(f"{source}: {what} has no tensor {name}, which the file holds")
        if tensors[name].shape != expected[name].shape:
            raise WeightsError(
                f"{source}: {name} of {what} has the shape {tuple(expected[name].shape)}, "
                f"the file's has {tuple(tensors[name].shape)}"
            )
        if name.endswith("num_batches_tracked"):
            continue
        if tensors[name].layout != torch.strided or tensors[name].is_meta or not tensors[name].is_floating_point():
            raise WeightsError(f"{source}: {name} is not a dense floating-point tensor")
        if not bool(tensors[name].isfinite().all()):
            raise WeightsError(f"{source}: {name} holds NaN or infinity: this training diverged")
    # Assigned, not copied into the parameters: these have the default dtype of the process, perhaps 16 bits.
    own = {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    network.load_state_dict(own, assign=True)
    return network.eval()  # type: ignore[return-value]


def _count(tensors: Mapping[str, Tensor], pattern: str, start: int) -> int:
    """How many of pattern.format(start), pattern.format(start + 1), ... there are without a gap."""
    number = start
    while pattern.format(number) in tensors:
        number += 1
    return number - start


def _outputs(tensors: Mapping[str, Tensor], name: str) -> int:
    """Output channels of a convolution; 0 if there is no such tensor, or none of any dimension."""
    return tensors[name].shape[0] if name in tensors and tensors[name].dim() else 0


def _reason(error: Exception) -> str:
    """What PyTorch or safetensors found wrong, on one line."""
    text = str(error)
    match = re.search(r"WeightsUnpickler error: (.*)", text) or re.search(r"(.+?)(?:[.:]\s|$)", text)
    reason = match[1].strip() if match else ""
    if "add_safe_globals" in reason:
        return "it holds a pickled object; save the state_dict() of the network instead"
    return reason if len(reason) > 3 else "no format of checkpoints that famkern knows"
