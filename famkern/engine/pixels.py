"""A picture's pixels, a band of rows at a time: what the first and last stage read, and what the last one writes.

Tensors and arrays of any strides stay as they are; only a band of them is ever converted. A picture need not be in memory:
anything that gives and takes slices of rows will do, see `Rows`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..ops import reduced
from .checks import Checks

FULL_SCALE: dict[Any, int] = {
    **reduced.FULL_SCALE,
    np.dtype(np.uint8): 255,
    np.dtype(np.uint16): 65535,
}
BAND_PIXELS = 1 << 18  # pixels that are converted or checked at a time


class Rows(Protocol):
    """A picture or a map of which rows are read and written: in a file, an array of Zarr, a data set of HDF5."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3); (H, W) for a map of valid pixels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Some rows, in memory that nothing else uses."""

    def __setitem__(self, rows: slice, values: Any, /) -> None:
        """Store some rows."""


Picture = Tensor | np.ndarray | Rows


class Pixels:
    """One RGB picture (H, W, 3): uint8, uint16 or floating point in [0, 1]."""

    def __init__(self, array: Picture) -> None:
        if isinstance(array, Tensor) and array.device.type == "cpu" and array.dtype != torch.bfloat16:
            # NumPy converts with one thread. PyTorch's would spin for milliseconds afterwards, on the kernels' cores.
            array = array.numpy()
        self.array = array
        self.height, self.width = int(array.shape[0]), int(array.shape[1])
        dtype = array.dtype if isinstance(array, Tensor) else np.dtype(array.dtype).newbyteorder("=")
        self.full_scale = FULL_SCALE.get(dtype)  # None: floating point

    def tensor(self, device: torch.device) -> Tensor | None:
        """The picture itself, (H, W, 3), for operators on this device that read and write it as it is.

        None where it lies elsewhere, not in memory for one, or in a form that PyTorch or the operators lack: swapped bytes,
        negative strides, 16-bit floating point. Then bands must be copied.
        """
        if isinstance(self.array, Tensor):
            return self.array if self.array.device == device and self.array.dtype in reduced.DEPTHS else None
        array = self.array
        if (
            not isinstance(array, np.ndarray)
            or device.type != "cpu"
            or not array.dtype.isnative
            or min(array.strides) < 0
        ):
            return None
        if not self._depth_is_read() or any(step % array.itemsize for step in array.strides):
            return None
        if not array.flags.writeable:  # PyTorch warns of memory that may only be read, and so we do
            array = np.asarray(_Writable(array))
        return torch.from_numpy(array)

    def rows(self, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Rows start..stop as operators read them, (rows, W, 3): of the picture's own memory and dtype where that can be.

        Its numbers are those of the picture whatever its strides; 16-bit floating point becomes `dtype`.
        """
        own = self.tensor(device)
        if own is not None:
            return own[start:stop]
        if device.type == "cpu" and not isinstance(self.array, Tensor) and self._depth_is_read():
            band = self.array[start:stop]
            if not isinstance(self.array, np.ndarray):  # nobody else has the band
                return torch.from_numpy(np.ascontiguousarray(band, band.dtype.newbyteorder("=")))
            return torch.from_numpy(np.array(band, dtype=band.dtype.newbyteorder("="), order="C"))
        return self.read(start, stop, dtype, device)[0]

    def store(self, start: int, stop: int, rows: Tensor) -> None:
        """Store what operators made of `rows`."""
        if rows.dtype.is_floating_point:
            self.write(start, stop, rows[None])
        else:
            self.array[start:stop] = rows.numpy()  # type: ignore[assignment]

    def copy_to(self, other: Pixels) -> None:
        """Store every row as it is in another picture of the same size and dtype."""
        step = max(1, BAND_PIXELS // self.width)
        for start in range(0, self.height, step):
            other.array[start : start + step] = self.array[start : start + step]  # type: ignore[assignment]

    def _depth_is_read(self) -> bool:
        assert not isinstance(self.array, Tensor)
        return self.full_scale is not None or self.array.dtype.itemsize in (4, 8)

    def read(self, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Rows start..stop as a contiguous (1, rows, W, 3) tensor with values in [0, 1]."""
        band = self.array[start:stop]
        if isinstance(band, np.ndarray):  # copied, since it may be read-only, byte-swapped or of negative strides
            numbers = np.empty(band.shape, np.float64 if dtype == torch.float64 else np.float32)
            if abs(band.strides[2]) > abs(band.strides[1]):  # planes; NumPy would copy them three numbers at a time
                for channel in range(3):
                    numbers[..., channel] = band[..., channel]
            else:
                numbers[...] = band
            if self.full_scale:
                numbers /= self.full_scale
            return torch.from_numpy(numbers)[None].to(device)
        band = band.to(device=device, dtype=dtype).contiguous()[None]
        return band / self.full_scale if self.full_scale else band

    def write(self, start: int, stop: int, band: Tensor) -> None:
        """Store (1, rows, W, 3) with values in [0, 1] as rows start..stop; integers are rounded half to even."""
        if isinstance(self.array, Tensor):
            values = (band[0] * self.full_scale).round_() if self.full_scale else band[0]
            self.array[start:stop].copy_(values)
        else:
            numbers = band[0].cpu().numpy()
            self.array[start:stop] = np.rint(numbers * self.full_scale) if self.full_scale else numbers

    def check(self, checks: Checks) -> None:
        """Refuse what would spoil the whole result, since one NaN reaches every pixel through the global means.

        A picture on a GPU is refused when `checks` are looked at.

        Raises:
            ValueError: for NaN, infinity, or values outside [0, 1].
        """
        if self.full_scale:
            return
        if isinstance(self.array, Tensor) and self.array.is_cuda:
            low, high = self.array.aminmax()  # both carry a NaN on
            checks.require((low >= 0) & (high <= 1), self._problem)
        elif problem := self._find_problem():
            raise problem

    def _problem(self) -> ValueError:
        problem = self._find_problem()
        assert problem is not None
        return problem

    def _find_problem(self) -> ValueError | None:
        step = max(1, BAND_PIXELS // self.width)
        for start in range(0, self.height, step):
            band = self.array[start : start + step]
            low, high = float(band.min()), float(band.max())  # both carry a NaN on
            if not (low >= 0 and high <= 1):
                if np.isfinite(low) and np.isfinite(high):
                    found = f"values from {low:g} to {high:g}"
                else:
                    found = "NaN or infinity"
                return ValueError(
                    f"a floating-point image has values in [0, 1]; this one has {found} "
                    f"in rows {start} to {min(start + step, self.height) - 1}"
                )
        return None


class _Writable:
    """An array's memory under another flag; keeps it alive."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.__array_interface__["data"][0], False)}
