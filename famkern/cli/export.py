"""`famkern export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import images
from ..export import FORMATS, OPSET, ExportError
from ..export import export as write
from .options import MODEL, WindowOption
from .terminal import fail, log_to_terminal, out, wrong_usage


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=MODEL),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write, ending in .onnx or .pt2.")
    ],
    torch: Annotated[
        bool, typer.Option("--torch", help="Write a program of torch.export (.pt2) instead of ONNX.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")] = False,
    window: WindowOption = None,
) -> None:
    """Write a network as ONNX, or as a program of torch.export, for programs that run without famkern.

    The file takes RGB pictures (batch, 3, height, width) in float32 from 0 to 1, of any size, and returns clear ones of the
    same shape: normalisation and clamping are inside. Before it is written it is run at three sizes and compared with
    famkern's own results. It computes whole pictures at once, at scale 1 and strength 1; bands, memory bounds and the other
    scales belong to famkern.
    """
    log_to_terminal()
    suffix = ".pt2" if torch else ".onnx"
    if output.suffix.lower() != suffix:
        fail(f"{output}: {'--torch writes' if torch else 'without --torch'} a file that ends in {suffix}", code=2)
    if output.exists() and not overwrite:
        fail(f"{output}: is there already; --overwrite replaces it", code=1)
    with wrong_usage():
        try:
            difference = write(model, output, window=window)
        except ModuleNotFoundError as error:
            fail(f"{error.name} is missing: pip install 'famkern[export]'", code=2)
        except (ExportError, images.ImageError) as error:
            fail(str(error), code=1)
    version = f", opset {OPSET}" if suffix == ".onnx" else ""
    out.print(
        f"{output}: {FORMATS[suffix]}{version}, within {difference:.0e} of famkern", highlight=False, soft_wrap=True
    )
