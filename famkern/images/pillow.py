"""The few lines that the formats which Pillow writes, or reads, share."""

from __future__ import annotations

from typing import Any, BinaryIO

from PIL import AvifImagePlugin, BmpImagePlugin, Image, JpegImagePlugin, WebPImagePlugin  # noqa: F401  registers what save() needs

from .picture import Samples


class _Sink:
    """A file that only writes. A real one Pillow would hand to C code, which takes a short write for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def save(samples: Samples, file: BinaryIO, format: str, **settings: Any) -> None:
    """Encode (H, W) or (H, W, 3 or 4) uint8 `samples` into `file`."""
    Image.fromarray(samples).save(_Sink(file), format, **settings)  # type: ignore[arg-type]
