"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL = "A name listed by `famkern info`, or a checkpoint: .safetensors, .pth, .pt, .pk, .pkl or .ckpt."
ModelOption = Annotated[str, typer.Option(help=MODEL)]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: CUDA if present.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="Precision of intermediate results: float32, float16, bfloat16 or float64. Default: float32; float16 on CUDA."
    ),
]
WindowOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Side in pixels of the windows that means are taken over, a multiple of 16; 0: the whole picture. "
        "Default: the model's own.",
    ),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        help="1: the network sees every pixel. 2 to 8: it sees the picture reduced by that, which is quicker; the result "
        'is carried over to every pixel. "auto": chosen by the size of the picture.'
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads. Default: PyTorch's setting.")]


def parse_scale(text: str) -> int | str:
    """What `Dehazer` takes for what was given as --scale."""
    return int(text) if text.isdecimal() else text
