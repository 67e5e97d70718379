"""What a caller gives to a Dehazer, checked: each of these raises an error that says what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import engine
from .models import windows
from .numeric import is_real, is_whole
from .ops import reduced

MAP_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MAX_THREADS = 1024


def check_tensor(image: Tensor, dims: tuple[int, ...]) -> None:
    """A picture as a tensor, (3, H, W), or a batch of them; `dims` are the numbers of dimensions that will do."""
    if image.dtype not in (torch.uint8, *MAP_DTYPES):
        raise TypeError(
            f"a tensor image is floating point of 16 to 64 bits in [0, 1], or uint8, not {image.dtype}: convert it first"
        )
    if image.layout != torch.strided or image.is_meta:
        raise TypeError(f"a tensor image is dense and holds pixels, not {image.layout} on the device {image.device}")
    if image.dim() not in dims or image.shape[-3] != 3 or 0 in image.shape:
        shapes = " or ".join({3: "(3, H, W)", 4: "(B, 3, H, W)"}[dim] for dim in dims)
        raise ValueError(f"a tensor image has the shape {shapes}, not {tuple(image.shape)}")


def check_array(image: np.ndarray | engine.Rows, dims: tuple[int, ...]) -> None:
    """A picture as an array, (H, W, 3), or a batch of them; `dims` are the numbers of dimensions that will do."""
    if isinstance(image, np.ma.MaskedArray):
        raise TypeError("a NumPy image has no mask: fill the masked pixels and give valid=, which says where data are")
    if image.dtype.newbyteorder("=") not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise TypeError(f"a NumPy image is floating point in [0, 1], uint8 or uint16, not {image.dtype}")
    if len(image.shape) not in dims or image.shape[-1] != 3 or 0 in image.shape:
        shapes = " or ".join({3: "(H, W, 3)", 4: "(B, H, W, 3)"}[dim] for dim in dims)
        raise ValueError(f"a NumPy image has the shape {shapes}, not {image.shape}")


def check_valid(valid: Any, size: Sequence[int]) -> Any:
    """The map of valid pixels of a picture of this size (H, W)."""
    if valid is None:
        return None
    given = getattr(valid, "dtype", type(valid).__name__)
    if given not in (torch.bool, np.dtype(bool)):
        raise TypeError(f"valid is a tensor or NumPy array of bools, not {given}")
    if tuple(valid.shape) != tuple(size[:2]):
        raise ValueError(f"valid has the shape {tuple(valid.shape)}, but this picture has {tuple(size[:2])}")
    return valid


def parse_device(device: str | torch.device | None) -> torch.device | None:
    """The device; None for what there is."""
    if device is None:
        return None
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device is "cpu", "cuda" or "cuda:N", not {device!r}') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} was asked for, but PyTorch {torch.__version__} finds no CUDA device here")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'device is "cpu", "cuda" or "cuda:N", not {str(device)!r}')
    return device


def parse_window(window: int | None, own: int | None, levels: int) -> int | None:
    """The side of channel attention's windows; None for those of the network, `own`, and 0 for the whole picture."""
    if window is None:
        return own
    return None if is_whole(window) and window == 0 else windows.check(window, levels)


def check_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a picture."""
    if not all(is_whole(side) and side >= 1 for side in (height, width)):
        raise ValueError(f"height and width are whole numbers of 1 or more, not {height!r} and {width!r}")
    return int(height), int(width)


def parse_threads(threads: int | None) -> int | None:
    """The number of CPU threads; None for PyTorch's setting."""
    if threads is not None and not (is_whole(threads) and 1 <= threads <= MAX_THREADS):
        raise ValueError(f"threads is a whole number from 1 to {MAX_THREADS}, not {threads!r}")
    return None if threads is None else int(threads)


def parse_strength(strength: float) -> float:
    """The share of the effect."""
    if not is_real(strength) or not 0 <= strength <= 2:
        raise ValueError(f"strength is a number from 0 to 2, not {strength!r}")
    return float(strength)


def parse_scale(scale: int | str) -> int | str:
    """The scale that the network sees pictures at, or "auto"."""
    if is_whole(scale) and 1 <= scale <= reduced.MOST_SCALE:  # type: ignore[operator]
        return int(scale)
    if isinstance(scale, str) and scale == "auto":
        return scale
    raise ValueError(f'scale is a whole number from 1 to {reduced.MOST_SCALE}, or "auto", not {scale!r}')


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The precision of intermediate results; None for the device's usual one."""
    parsed = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and parsed not in MAP_DTYPES:
        accepted = ", ".join(str(accepted).removeprefix("torch.") for accepted in MAP_DTYPES)
        raise ValueError(f"dtype is one of {accepted}, not {dtype}")
    return parsed
