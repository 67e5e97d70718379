"""dehaze() and Dehazer: weights, device, precision and a memory budget become a callable."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from . import arguments, engine, models, pil, threads
from .models import ordinary
from .models.student import IMAGE_MEAN, IMAGE_STD, fold_norm
from .numeric import is_real
from .ops import gpu, reduced, route
from .ops.kinds import KINDS

logger = logging.getLogger("famkern")

T = TypeVar("T", Tensor, np.ndarray, Image.Image)
M = TypeVar("M", Tensor, np.ndarray)
Map = Tensor | np.ndarray  # (H, W)

P = ParamSpec("P")
R = TypeVar("R")

SCALE = 1  # unless another is asked for


def _outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Leave calls out of the graphs that torch.compile makes, and refuse those of tracers, which need all of a program."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(
                "a Dehazer computes on compiled kernels, which cannot be traced or exported; "
                "`famkern export` writes a network as ONNX or as a program of torch.export"
            )
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **options)  # type: ignore[no-any-return]
        return function(*arguments, **options)

    return call


class Dehazer:
    """A dehazing network ready to run: packs its weights once, then takes any number of pictures.

    Instances may be called from several threads at once, copied, pickled and sent to other processes. Inside torch.compile
    a call is left out of the graph. No gradient passes through, and a model's own hooks do not run.

    Args:
        model: a name out of `famkern.models.available()`, a path to a checkpoint (see `famkern.models.load`), a
            `Student` or a `UStudent`.
        strength: 0 returns the input, 1 the network's output, values between them the blend of both. Above 1, up to 2, the
            change goes on as far as that in the same direction, ending at black and white.
        device: where to compute; None for a tensor's own device, and for anything else CUDA where present, else the CPU.
        dtype: precision of the network's maps: torch.float32, float16, bfloat16 or float64. Arithmetic is in float32, or
            float64 for float64. None for float32 on the CPU and float16 on CUDA.
        memory: bound on what a call allocates beyond its input and output, in bytes or as text ("1GiB"); on a GPU, of its
            memory. Maps that do not fit go to a file on disk; those of a GPU to the host's memory first. None: they stay in
            memory if they fit half of what is available; a GPU keeps that of the last few picture sizes, and their runs
            as CUDA graphs.
        threads: CPU threads; None for PyTorch's setting.
        window: channel attention sees means over windows of so many rows and columns, a multiple of 16 at the network's
            coarsest scale too; 0: over the whole picture. None: as the weights were made for, see `Student.window`.
        scale: 1: the network sees every pixel. 2 to 8: it sees the picture reduced by that, and what it makes of it is
            carried over to every pixel by a local affine map of colours. "auto": by as much as brings the longer side near
            the length that the weights are best at, `Student.scale_side`; 1 for weights that do not say. `window` counts
            in pixels of what the network sees.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is accepted.
        FileNotFoundError, famkern.models.WeightsError: from loading the weights.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module = "student",
        *,
        strength: float = 1.0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
        window: int | None = None,
        scale: int | str = SCALE,
    ) -> None:
        self.strength = arguments.parse_strength(strength)
        self.threads = arguments.parse_threads(threads)
        if not isinstance(model, (str, os.PathLike, nn.Module)) or model == "":
            raise TypeError(f"model is a name, a path or a network of the student family, not {model!r}")
        self.device = arguments.parse_device(device)
        self.dtype = arguments.parse_dtype(dtype)
        self.memory = None if memory is None else engine.parse_bytes(memory)
        self.scale = arguments.parse_scale(scale)
        network = model if isinstance(model, nn.Module) else models.load(model)
        if not isinstance(network, (models.Student, models.UStudent)):
            what = f"{type(network).__name__}" + ("" if network is model else f" ({model})")
            teacher = ", which enlarges pictures and removes no haze" if isinstance(network, models.Teacher) else ""
            raise TypeError(f"model is a network of the student family, not a {what}{teacher}")
        if network is model:  # else it was made here, as its family is
            ordinary.check(network)
        self._model = f"{network._get_name()}({network.extra_repr()})" if network is model else repr(str(model))
        self.window = arguments.parse_window(window, network.window, network.levels)
        self.scale_side: int | None = network.scale_side
        if self.scale == "auto" and self.scale_side is None:
            logger.warning("scale is 1 for all pictures: the weights do not say at which length of side they are best")
        self._tensors = fold_norm({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})
        self._make_ready()

    def _make_ready(self) -> None:
        """Get what belongs to this process: lines of stages on its devices, CUDA graphs, a lock."""
        self._lines: dict[tuple[torch.dtype, torch.device], engine.Line] = {}
        self._graphs = engine.Graphs()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lines", "_graphs", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_ready()

    def __copy__(self) -> Dehazer:
        """One that shares the packed weights."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __repr__(self) -> str:
        options = {
            "strength": None if self.strength == 1 else f"{self.strength:g}",
            "device": self.device,
            "dtype": self.dtype and str(self.dtype).removeprefix("torch."),
            "memory": self.memory and engine.format_bytes(self.memory),
            "threads": self.threads,
            "window": self.window,
            "scale": None if self.scale == SCALE else self.scale,
        }
        given = (f"{name}={value}" for name, value in options.items() if value is not None)
        return f"Dehazer({', '.join([self._model, *given])})"

    @_outside_graphs
    def __call__(self, image: T, *, progress: Callable[[float], None] | None = None, valid: Map | None = None) -> T:
        """Remove haze.

        Args:
            image: hazy RGB of any size: a torch tensor (3, H, W) or (B, 3, H, W), floating point in [0, 1] or uint8; a
                NumPy array (H, W, 3) or (B, H, W, 3), floating point in [0, 1], uint8 or uint16; a PIL image: RGB, grey
                of 8 or 16 bits, or a palette, with or without transparency, which stays as it is. Any strides. Pictures
                of a batch do not influence each other.
            progress: called with the finished fraction, which grows to 1.
            valid: (H, W) of bools: pixels that hold data. At reduced scale the others count in no fit; what the network
                sees is `image` everywhere, so fill them with what is near. None: all do.

        Returns:
            The clear picture: same kind, shape, dtype and range as `image`; integers are rounded half to even. A palette
            becomes RGB, and a transparent colour an alpha channel. The colours of a PIL image with an ICC profile are
            converted to sRGB, which the networks know, and back.

        Raises:
            TypeError, ValueError: for another kind, dtype or shape, and for values that are not finite or not in [0, 1].
            MemoryBoundError: (a ValueError) for a memory bound below the least possible one, which it states.
            OSError: if maps must go to disk and there is no room.
        """
        if isinstance(image, Image.Image):
            return self._dehaze_pil(image, progress, valid)
        if isinstance(image, np.ndarray):
            return self._dehaze_array(image, progress, valid)
        if isinstance(image, Tensor):
            return self._dehaze_tensor(image, progress, valid)
        raise TypeError(f"image is a torch tensor, a NumPy array or a PIL image, not a {type(image).__name__}")

    @_outside_graphs
    def stream(
        self,
        source: engine.Rows,
        sink: engine.Rows,
        *,
        progress: Callable[[float], None] | None = None,
        valid: np.ndarray | engine.Rows | None = None,
    ) -> None:
        """Remove haze from a picture that need not be in memory, nor its result.

        Args:
            source: gives slices of rows as NumPy arrays, `source[start:stop]`, and has `shape`, (H, W, 3), and
                `dtype`: a memory map, an array of Zarr, a data set of HDF5. Rows are read twice, in their order.
            sink: takes them, `sink[start:stop] = rows`, from the first to the last; of the same shape and dtype.
            progress, valid: as for a call; `valid` may be like `source`, (H, W) of bools.

        The bits are those of a call. `memory` bounds what is allocated beyond source and sink.

        Raises:
            TypeError, ValueError, MemoryBoundError, OSError: as a call; also where sink and source differ.
        """
        arguments.check_array(source, dims=(3,))
        if tuple(source.shape) != tuple(sink.shape) or source.dtype != sink.dtype:
            raise ValueError(f"the sink is {sink.dtype} {sink.shape}, but the source is {source.dtype} {source.shape}")
        self._run(source, sink, self._default_device(), progress, arguments.check_valid(valid, source.shape))

    @_outside_graphs
    def frame(
        self, frame: np.ndarray, means: Mapping[str, Tensor] | None = None, *, weight: float = 1.0
    ) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Remove haze from a frame of a film, as `famkern.video.dehaze_frames` does.

        The network's channel attention works with means over the picture. Here they are averages over the frames so far,
        so that the brightness of the result does not flicker with what passes by.

        Args:
            frame: (H, W, 3), as for a call.
            means: what this returned for the frame before; None for the first one.
            weight: 0 < weight <= 1, of this frame in the averages. 1: each frame for itself.

        Returns:
            The clear frame, and the averages: float64 tensors by name, on the device that computes. The same frames and
            the same averages give the same bits.

        Raises:
            TypeError, ValueError: as a call; and for means of another size of picture.
        """
        if not is_real(weight) or not 0 < weight <= 1:
            raise ValueError(f"weight is a number above 0 and up to 1, not {weight!r}")
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise TypeError(f"a frame is a NumPy array (H, W, 3), not {getattr(frame, 'shape', type(frame).__name__)}")
        averages = engine.Averages(means or {}, float(weight))
        return self._dehaze_array(frame, None, None, averages), averages.after

    @_outside_graphs
    def transmission(self, hazy: M, clear: M, *, valid: Map | None = None) -> M:
        """Estimate how much light comes through the haze, from a picture and what this made of it.

        It is 1 / a, where clear = a hazy + b is fitted to the colours around each pixel, as at reduced scale, and a is
        the mean of the three channels; 1 where a is below that. It is fitted at this scale, or if that is 1, at the one
        that "auto" would choose. An even surface, such as a sky, says nothing of its haze, and comes out as 1.

        Args:
            hazy: one picture as `__call__` takes it: a tensor (3, H, W) or an array (H, W, 3).
            clear: its result.
            valid: as `__call__` takes it.

        Returns:
            (H, W) float32 in (0, 1]: an array, or a tensor on the device of `hazy`.

        Raises:
            TypeError, ValueError: as `__call__`, and where strength is 0, which leaves nothing to estimate from.
            MemoryBoundError: for a memory bound below `transmission_memory`.
        """
        if self.strength == 0:
            raise ValueError("strength is 0: a picture that stays as it is tells nothing of its haze")
        before: Any = hazy
        after: Any = clear
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            arguments.check_tensor(before, dims=(3,))
            arguments.check_tensor(after, dims=(3,))
            before, after = before.detach().resolve_neg(), after.detach().resolve_neg()
            device, before, after = self.device or before.device, before.permute(1, 2, 0), after.permute(1, 2, 0)
            out: Any = torch.empty(before.shape[:2], dtype=torch.float32, device=before.device)
        elif isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
            arguments.check_array(before, dims=(3,))
            arguments.check_array(after, dims=(3,))
            device, out = self._default_device(), np.empty(before.shape[:2], np.float32)
        else:
            raise TypeError("hazy and clear are two torch tensors or two NumPy arrays")
        if before.shape != after.shape:
            raise ValueError(f"hazy and clear are of one size, not {tuple(hazy.shape)} and {tuple(clear.shape)}")
        device, valid = _numbered(device), arguments.check_valid(valid, before.shape)
        with self._computing(device):
            plan = self._transmission_plan(out.shape[0], out.shape[1], device, self.memory)
            source, result, checks = engine.Pixels(before), engine.Pixels(after), engine.Checks(device)
            source.check(checks)
            result.check(checks)
            engine.run_transmission(plan, source, result, out, self.strength, device, valid)
            checks.look()
        return out  # type: ignore[no-any-return]

    def identity(self) -> str:
        """A number, as text, of what decides a result: weights, strength, precision, window, scale, kind of device."""
        device = self._default_device().type
        options = [self.strength, self.dtype, self.window, self.scale, self.scale_side, device]
        weights = save({name: tensor.contiguous() for name, tensor in self._tensors.items()})
        return hashlib.sha256(repr(options).encode() + weights).hexdigest()

    def scale_of(self, height: int, width: int) -> int:
        """The scale at which a picture of this size is dehazed."""
        height, width = arguments.check_size(height, width)
        return self.scale if isinstance(self.scale, int) else self._auto_scale(height, width)

    def _auto_scale(self, height: int, width: int) -> int:
        if self.scale_side is None:
            return 1
        halves = 2 * max(height, width) - self.scale_side  # rounded half down
        return min(max(-(-halves // (2 * self.scale_side)), 1), reduced.MOST_SCALE)

    def limited(self, memory: int | str | None) -> Dehazer:
        """The same, sharing the packed weights, with another bound on memory."""
        other = self.__copy__()
        other.memory = None if memory is None else engine.parse_bytes(memory)
        return other

    def adjusted(self, *, strength: float, scale: int | str) -> Dehazer:
        """The same, sharing the packed weights, with another strength and scale; errors as for a new one."""
        other = self.__copy__()
        other.strength, other.scale = arguments.parse_strength(strength), arguments.parse_scale(scale)
        other._graphs = engine.Graphs()  # which hold a strength and a scale
        return other

    def least_memory(self, height: int, width: int) -> int:
        """The least bound on memory, in bytes, with which a picture of this size can be dehazed, on the default device."""
        return self._least_need(self._plan, height, width)

    def transmission_memory(self, height: int, width: int) -> int:
        """The least bound on memory, in bytes, for `transmission` of a picture of this size, on the default device."""
        return self._least_need(self._transmission_plan, height, width)

    def spilled_bytes(self, height: int, width: int) -> int:
        """Bytes on disk that the maps of a picture of this size take, on the default device, within the bound on memory.

        Raises:
            MemoryBoundError: as a call.
        """
        device = self._default_device()
        height, width = arguments.check_size(height, width)
        with threads.use(self.threads):
            plan = self._plan(height, width, device, self.memory)
        return engine.spilled_bytes(plan.network if isinstance(plan, engine.ReducedPlan) else plan, device)

    def _least_need(self, plan: Callable[..., engine.Plan | engine.CarryPlan], height: int, width: int) -> int:
        height, width = arguments.check_size(height, width)
        with threads.use(self.threads):  # each has memory to work in
            try:
                return plan(height, width, self._default_device(), memory=1).need
            except engine.MemoryBoundError as error:
                return error.least

    def _dehaze_tensor(self, image: Tensor, progress: Callable[[float], None] | None, valid: Map | None) -> Tensor:
        arguments.check_tensor(image, dims=(3, 4))
        valid = arguments.check_valid(valid, image.shape[-2:])
        image = image.detach().resolve_neg()
        result = torch.empty(image.shape, dtype=image.dtype, device=image.device)
        pictures = image[None] if image.dim() == 3 else image  # (B, 3, H, W)
        results = result[None] if image.dim() == 3 else result
        for index, (before, after) in enumerate(zip(pictures, results, strict=True)):
            report = _part(progress, index, len(pictures))
            self._run(before.permute(1, 2, 0), after.permute(1, 2, 0), self.device or image.device, report, valid)
        return result

    def _dehaze_array(
        self,
        image: np.ndarray,
        progress: Callable[[float], None] | None,
        valid: Map | None,
        averages: engine.Averages | None = None,
    ) -> np.ndarray:
        arguments.check_array(image, dims=(3, 4))
        valid = arguments.check_valid(valid, image.shape[-3:-1])
        result = np.empty(image.shape, dtype=image.dtype)
        pictures, results = (a[None] if a.ndim == 3 else a for a in (image, result))  # (B, H, W, 3)
        for index, (before, after) in enumerate(zip(pictures, results, strict=True)):
            self._run(before, after, self._default_device(), _part(progress, index, len(pictures)), valid, averages)
        return result

    def _dehaze_pil(
        self, image: Image.Image, progress: Callable[[float], None] | None, valid: Map | None
    ) -> Image.Image:
        picture = pil.split(image)
        copies = picture.copied_bytes
        dehazer = self if self.memory is None else self.limited(max(1, self.memory - copies))
        try:
            pixels = dehazer._dehaze_array(picture.pixels, progress, valid)
        except engine.MemoryBoundError as error:
            raise engine.MemoryBoundError(error.what, error.least + copies, error.bound + copies) from None
        return picture.join(pixels)

    def _default_device(self) -> torch.device:
        return self.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _run(
        self,
        before: engine.Picture,
        after: engine.Picture,
        device: torch.device,
        progress: Callable[[float], None] | None,
        valid: engine.Picture | None,
        averages: engine.Averages | None = None,
    ) -> None:
        """Dehaze one picture (H, W, 3) into another of the same size and dtype."""
        if self.strength == 0:
            source, checks = engine.Pixels(before), engine.Checks(device)
            source.check(checks)
            checks.look()
            source.copy_to(engine.Pixels(after))
            if progress:
                progress(1.0)
            return
        device = _numbered(device)
        alone = self.memory is None and progress is valid is averages is None
        key = engine.key_of(before, device) if alone else None
        with self._computing(device):
            if key and self._graphs.replay(key, before, after):  # type: ignore[arg-type]
                return
            plan = self._plan(int(before.shape[0]), int(before.shape[1]), device, self.memory)

            def compute(before: engine.Picture, after: engine.Picture) -> engine.Checks:
                return self._compute(before, after, plan, device, progress, valid, averages)

            if key and plan.whole:
                self._graphs.run(key, compute, before, after)  # type: ignore[arg-type]
            else:
                compute(before, after).look()

    def _compute(
        self,
        before: engine.Picture,
        after: engine.Picture,
        plan: engine.Plan | engine.ReducedPlan,
        device: torch.device,
        progress: Callable[[float], None] | None,
        valid: engine.Picture | None,
        averages: engine.Averages | None,
    ) -> engine.Checks:
        """Start the run on a GPU, and do it on a CPU; returns what must hold for it to be right."""
        source, sink, checks = engine.Pixels(before), engine.Pixels(after), engine.Checks(device)
        source.check(checks)
        if isinstance(plan, engine.ReducedPlan):

            def run_network(low: engine.Pixels, made: engine.Pixels, report: Callable[[float], None]) -> None:
                engine.run(plan.network, low, made, device, report, checks, averages=averages)

            engine.run_reduced(plan, source, sink, run_network, self.strength, device, progress, valid)
            return checks
        blend = sink if self.strength == 1 else Blend(source, sink, self.strength)
        engine.run(plan, source, blend, device, progress, checks, averages=averages)
        return checks

    @contextlib.contextmanager
    def _computing(self, device: torch.device) -> Iterator[None]:
        """The surroundings of every computation, whatever those of the caller are."""
        with torch.inference_mode(), threads.use(self.threads), _full_precision(device), _no_autocast(device):
            yield

    def _precision(self, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
        """Of the maps, and of the arithmetic."""
        dtype = self.dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        return dtype, torch.float64 if dtype == torch.float64 else torch.float32

    def _plan(
        self, height: int, width: int, device: torch.device, memory: int | None
    ) -> engine.Plan | engine.ReducedPlan:
        scale = self.scale_of(height, width)
        if scale == 1:
            return self._network_plan(height, width, device, memory)
        return engine.plan_reduced(
            lambda rows, columns, bound: self._network_plan(rows, columns, device, bound),
            height,
            width,
            scale,
            dtype=self._precision(device)[1],
            device=device,
            bound=_available(device) // 2 if memory is None else memory,
        )

    def _transmission_plan(self, height: int, width: int, device: torch.device, memory: int | None) -> engine.CarryPlan:
        scale = self.scale_of(height, width)
        return engine.plan_carry(
            height,
            width,
            scale if scale > 1 else self._auto_scale(height, width),
            dtype=self._precision(device)[1],
            device=device,
            bound=_available(device) // 2 if memory is None else memory,
        )

    def _network_plan(self, height: int, width: int, device: torch.device, memory: int | None) -> engine.Plan:
        line = self._line(device)
        routes = {route.choose(device, channels, line.arithmetic, KINDS[kind]) for kind, channels in line.kinds}
        way = route.join(routes)
        return engine.make_plan(
            line,
            height,
            width,
            tile=way.tile,
            memory=memory,
            available=_available(device),
            window=self.window,
            band_pixels=way.band_pixels,
            slots=2 if device.type == "cuda" else 1,
            workspace=way.workspace_bytes,
        )

    def _line(self, device: torch.device) -> engine.Line:
        """The network on this device, in its precision there; made at the first use."""
        maps, arithmetic = self._precision(device)
        with self._lock:
            if (maps, device) not in self._lines:
                self._lines[maps, device] = engine.lower(
                    self._tensors, mean=IMAGE_MEAN, std=IMAGE_STD, dtype=arithmetic, maps=maps, device=device
                )
                if device.type == "cuda":
                    torch.cuda.current_stream(device).synchronize()  # other threads' streams will read it
            return self._lines[maps, device]


class Blend:
    """Takes the network's output and hands on its blend with the picture: `strength` of the output."""

    def __init__(self, source: engine.Source, sink: engine.Sink, strength: float) -> None:
        self._source, self._sink, self._strength = source, sink, strength

    def write(self, start: int, stop: int, band: Tensor) -> None:
        """Take rows start..stop, (1, rows, W, 3)."""
        before = self._source.read(start, stop, band.dtype, band.device)
        self._sink.write(start, stop, torch.lerp(before, band, self._strength).clamp_(0, 1))


@_outside_graphs
def dehaze(
    image: T,
    *,
    model: str | os.PathLike[str] | nn.Module = "student",
    strength: float = 1.0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    window: int | None = None,
    scale: int | str = SCALE,
) -> T:
    """Remove haze from one picture, or from a batch of them; see `Dehazer` for the arguments and errors.

    For many pictures make one `Dehazer` and call it: it loads the weights once.

    Example:
        >>> clear = famkern.dehaze(Image.open("hazy.jpg"))
    """
    options = {"strength": strength, "device": device, "dtype": dtype, "memory": memory, "threads": threads}
    return Dehazer(model, window=window, scale=scale, **options)(image)  # type: ignore[arg-type]


def _numbered(device: torch.device) -> torch.device:
    """The device with its number: "cuda" is the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _available(device: torch.device) -> int:
    """Bytes that maps could take on this device."""
    return gpu.available_memory(device) if device.type == "cuda" else engine.available_memory()


def _part(progress: Callable[[float], None] | None, index: int, count: int) -> Callable[[float], None] | None:
    """Progress of picture number `index` among `count`, as progress of them all."""
    return progress and (lambda fraction: progress((index + fraction) / count))


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The precision is the caller's choice of dtype, also inside torch.autocast."""
    return torch.autocast(device.type, enabled=False)


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Convolutions of the reference operators in true float32, not TF32, and repeatable."""
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    return contextlib.nullcontext()
