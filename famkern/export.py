"""The whole of a dehazing as a file that other programs run: ONNX, or a program of torch.export.

    image (B, 3, H, W), float32 in [0, 1]  ->  normalise  ->  network  ->  clamp  ->  clear (B, 3, H, W), float32 in [0, 1]

B, H and W are free; only a program of torch.export needs sides of 2 pixels or more, or of 2^levels for a U-shaped one. What
is exported is the plain module, not famkern's kernels: it runs on the other program's operators, on the whole picture at
once. A file is moved to its place only after it gave the results of `Dehazer` at sizes that it was
not traced at.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import __version__, models
from .dehazer import Dehazer
from .images import ImageError, check_writable, replacing
from .models.loading import build
from .models.student import fold_norm, normalise

OPSET = 18  # of ONNX, 2022: what all its runtimes have
TRACED = (2, 3, 70, 90)
CHECKED = ((1, 3, 211, 333), (1, 3, 97, 64), (2, 3, 33, 50))  # odd sides, small ones, and several pictures
TOLERANCE = 1e-4  # a fortieth of a step of 8 bits
FORMATS = {".onnx": "ONNX", ".pt2": "torch.export"}


class ExportError(ValueError):
    """What cannot be exported; the message is one line."""


class Pipeline(nn.Module):
    """Everything that `Dehazer` does to a tensor: normalise, run the network, clamp."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Hazy RGB (B, 3, H, W) in [0, 1] -> clear RGB (B, 3, H, W) in [0, 1]."""
        return self.network(normalise(image)).clamp(0, 1)


def export(
    model: str | os.PathLike[str] | nn.Module, path: str | os.PathLike[str], *, window: int | None = None
) -> float:
    """Write a network, with normalisation and clamping, to a file that needs no famkern to run.

    Args:
        model: as for `Dehazer`: a name, a path to a checkpoint, a `Student` or a `UStudent`.
        path: ends in .onnx for ONNX, or in .pt2 for a program of torch.export, for `torch.export.load`. What is there is
            replaced.
        window: as for `Dehazer`.

    Returns:
        The greatest difference to `Dehazer` at three sizes that the file was tried at.

    Raises:
        ValueError, TypeError, FileNotFoundError: for a model or window that `Dehazer` does not take, or another suffix.
        ModuleNotFoundError: if what writes and tries ONNX is missing: pip install 'famkern[export]'.
        ExportError: if the file gives other results than `Dehazer`, or PyTorch cannot trace the network.
        famkern.images.ImageError: (an OSError or ValueError) if the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        accepted = " or ".join(f"{suffix} ({name})" for suffix, name in FORMATS.items())
        raise ValueError(f"{path}: a file that ends in {accepted} expected")
    write, run = (_write_onnx, _run_onnx) if suffix == ".onnx" else (_write_torch, _run_torch)
    dehazer = Dehazer(model, device="cpu", dtype=torch.float32, window=window)
    check_writable(path)
    if not Path(path).parent.is_dir():
        raise ImageError(f"{path}: cannot be written (there is no folder {Path(path).parent}); create it")
    if suffix == ".onnx":
        _require_onnx()
    with _plain_process(), tempfile.TemporaryDirectory() as folder:
        program = trace(model, dehazer.window)
        made = Path(folder) / f"network{suffix}"
        write(program, made, _describe(model, dehazer.window))
        difference = _difference(run(made), dehazer)
        if not difference <= TOLERANCE:  # nor if it is NaN
            raise ExportError(
                f"{path}: not written: its results differ by {difference:.1g} from famkern's; please report this, with "
                f"PyTorch {torch.__version__}"
            )
        with replacing(path) as file:
            file.write(made.read_bytes())
    return difference


def trace(model: str | os.PathLike[str] | nn.Module, window: int | None) -> torch.export.ExportedProgram:
    """The network with its surroundings as a graph of PyTorch's operators, for any batch, height and width."""
    network = model if isinstance(model, nn.Module) else models.load(model)
    tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    plain = build(fold_norm(tensors), _name(model))
    assert not isinstance(plain, models.Teacher)  # which Dehazer has refused
    plain.window = window
    # PyTorch traces a side of one pixel as another program, and every level halves the sides. ONNX keeps no such condition.
    least = 2**plain.levels
    height, width = (torch.export.Dim(name, min=least) for name in ("height", "width"))
    free = {0: torch.export.Dim("batch"), 2: height, 3: width}
    try:
        return torch.export.export(
            Pipeline(plain).eval(), (torch.rand(TRACED, dtype=torch.float32),), dynamic_shapes={"image": free}
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ExportError(
            f"PyTorch {torch.__version__} cannot trace {_name(model)}: {str(error).splitlines()[0]}"
        ) from error


def _name(model: str | os.PathLike[str] | nn.Module) -> str:
    return f"{model._get_name()}({model.extra_repr()})" if isinstance(model, nn.Module) else Path(model).name


def _describe(model: str | os.PathLike[str] | nn.Module, window: int | None) -> dict[str, str]:
    """What the file says of itself."""
    return {
        "famkern": __version__,
        "model": _name(model),
        "input": "image: RGB, (batch, 3, height, width), float32 in [0, 1]",
        "output": "clear: RGB, (batch, 3, height, width), float32 in [0, 1]",
        "window": "the whole picture" if window is None else f"{window} pixels",
    }


def _difference(run: Callable[[Tensor], Tensor], dehazer: Dehazer) -> float:
    """The greatest difference between a file's results and those of `Dehazer`, at sizes that it was not traced at."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(size, generator=generator, dtype=torch.float32) for size in CHECKED]
    return max(float((run(image) - dehazer(image)).abs().max()) for image in images)


def _require_onnx() -> None:
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401


def _write_onnx(program: torch.export.ExportedProgram, path: Path, description: dict[str, str]) -> None:
    with quiet():
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["clear"],
        )
    made.model.producer_name, made.model.producer_version = "famkern", __version__
    made.model.graph.name = "famkern"
    made.model.metadata_props.update(description)
    made.save(path, external_data=False)


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["clear"], {"image": image.numpy()})[0])


def _write_torch(program: torch.export.ExportedProgram, path: Path, description: dict[str, str]) -> None:
    torch.export.save(program, path, extra_files=description)


def _run_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.no_grad()(torch.export.load(path).module())


@contextlib.contextmanager
def _plain_process() -> Iterator[None]:
    """The surroundings of tracing, whatever default device, autocast and inference mode the caller has."""
    with torch.device("cpu"), torch.autocast("cpu", enabled=False), torch.inference_mode(False):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters and tracers say of packages that they could use, and of their own deprecated ways."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
