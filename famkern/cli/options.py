"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option(help="A name listed by `famkern info`, or a .safetensors, .pth or .pk file.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: CUDA if present.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="Precision of maps: float32, float16, bfloat16, float64. Default: by device.")
]
WindowOption = Annotated[
    int | None,
    typer.Option(min=0, help="Pixels over which means are taken, a multiple of 16; 0: all. Default: the model's own."),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        help='1: exact; 2 to 8: on the picture reduced by that, carried over; "auto": by the picture\'s size.'
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads. Default: PyTorch's setting.")]


def parse_scale(text: str) -> int | str:
    """What `Dehazer` takes for what was given as --scale."""
    return int(text) if text.isdecimal() else text
