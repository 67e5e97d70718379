"""What else would run the same network: each engine takes a module and makes a function of it, from picture to picture.

A picture is (1, 3, H, W), float32 in [0, 1]; what an engine compiles, it compiles for this size.
"""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..export import quiet

Run = Callable[[Tensor], Tensor]
Size = tuple[int, int]  # height, width

INSTALL = "pip install 'famkern[bench]'"
PNNX_PIXELS = 2**19  # of a picture for which pnnx may prepare a network: it takes 10 KiB for each and more
NCNN_PIXELS = 2**22  # of a picture that ncnn may be given: beside the other engines more do not fit 24 GB


class Missing(Exception):
    """An engine that is not installed here, or cannot run the network; the message says why."""


def _eager(network: nn.Module, size: Size, threads: int) -> Run:
    return network


def _channels_last(network: nn.Module, size: Size, threads: int) -> Run:
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda image: network(image.contiguous(memory_format=torch.channels_last))


def _compiled(network: nn.Module, size: Size, threads: int) -> Run:
    torch.compiler.reset()
    return torch.compile(network)


def _onnx_runtime(network: nn.Module, size: Size, threads: int) -> Run:
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(_onnx(network, size), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _openvino(network: nn.Module, size: Size, threads: int) -> Run:
    openvino = _package("openvino")
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.compile_model(openvino.Core().read_model(_onnx(network, size)), "CPU", hints)
    return lambda image: torch.from_numpy(compiled(image.numpy())[0].copy())


def _ncnn(network: nn.Module, size: Size, threads: int) -> Run:
    ncnn, pnnx = _package("ncnn"), _package("pnnx")
    if size[0] * size[1] > NCNN_PIXELS:
        raise Missing("ncnn would take too much memory beside the others")

    def prepared(traced: Size, *others: Size) -> Any:
        """The network from a trace at this size, for any size if there are others; None if ncnn cannot load it."""
        net = ncnn.Net()
        net.opt.num_threads = threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, False)
        shapes = zip(("inputshape", "inputshape2"), (traced, *others), strict=False)
        command = [pnnx.EXEC_PATH, "network.pt", "fp16=0", *(f"{name}=[1,3,{h},{w}]" for name, (h, w) in shapes)]
        with tempfile.TemporaryDirectory() as folder:
            # Inference mode would trace tensors that cannot be saved.
            with torch.inference_mode(mode=False), torch.no_grad(), quiet():
                torch.jit.trace(network, torch.rand(1, 3, *traced), check_trace=False).save(f"{folder}/network.pt")
            code = subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode
            if code:
                raise Missing(f"pnnx, which prepares the network for ncnn, ended with {code}")
            if "pnnx." in Path(folder, "network.ncnn.param").read_text():  # layers that ncnn does not have
                return None
            loaded = net.load_param(f"{folder}/network.ncnn.param"), net.load_model(f"{folder}/network.ncnn.bin")
        return net if loaded == (0, 0) else None

    net = prepared((64, 96), (128, 160))
    if net is None:  # the U-shaped student cuts maps to the size of others, which pnnx only knows for one size
        if size[0] * size[1] > PNNX_PIXELS:
            raise Missing("pnnx, which prepares the network for ncnn, would take tens of gigabytes of memory")
        net = prepared(size)
    if net is None:
        raise Missing("ncnn cannot load the network")

    def run(image: Tensor) -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0].numpy()))
        return torch.from_numpy(np.array(extractor.extract("out0")[1]))[None]

    return run


def _onnx(network: nn.Module, size: Size) -> bytes:
    _package("onnxscript")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        example = (torch.rand(1, 3, *size),)
        with quiet():
            torch.onnx.export(
                network, example, path, input_names=["image"], dynamo=True, external_data=False, verbose=False
            )
        return path.read_bytes()


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise Missing(f"{name} is not installed: {INSTALL}") from None


ENGINES: dict[str, Callable[[nn.Module, Size, int], Run]] = {
    "OpenVINO": _openvino,
    "ONNX Runtime": _onnx_runtime,
    "ncnn": _ncnn,
    "torch.compile": _compiled,
    "PyTorch, channels_last": _channels_last,
    "PyTorch": _eager,
}
