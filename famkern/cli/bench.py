"""`famkern bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.status import Status
from rich.table import Column, Table

from .. import bench as benchmarks
from .. import images
from ..bench.results import psnr_of
from .options import ThreadsOption
from .terminal import complain, err, fail, out, wrong_usage


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Less than two minutes: fewer sizes, engines, rounds.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write every figure to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time, memory and PSNR into this PNG file.")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure the speed and memory of famkern on this machine's CPU, beside PyTorch and what else is installed.

    Engines run the same network on the same picture and take turns; a wrong result is not timed. Close other programs
    first.
    """
    for path in filter(None, (json, plot)):
        try:
            images.check_writable(path)
        except images.ImageError as error:
            fail(str(error), code=2)
    if plot:
        with wrong_usage():
            _needs_matplotlib()
    chosen = benchmarks.plan("quick" if quick else "full", threads=threads)
    try:
        with Status("", console=err) as status:
            results = benchmarks.run(chosen, status.update)
        _show(results)
        if json:
            results.write_json(json)
        if plot:
            benchmarks.plot(results, plot)
    except (benchmarks.WrongResultError, images.ImageError) as error:
        fail(str(error), code=1)


def _needs_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("--plot needs matplotlib: pip install 'famkern[bench]'") from None


def _show(results: benchmarks.Results) -> None:
    machine = results.machine
    print(f"{machine['processor']}, {machine['threads']} threads, kernels: {machine['kernels']}")
    groups = {(row.model, row.height, row.width): None for row in results.rows}
    for model, height, width in groups:
        table = Table("", *(Column(title, justify="right") for title in ("median", "spread", "", "PSNR")), box=None)
        for row in results.rows:
            if (row.model, row.height, row.width) != (model, height, width):
                continue
            exact, psnr = results.exact(row), psnr_of(row) if row.engine == benchmarks.FAMKERN else None
            table.add_row(
                escape(_label(row)),
                f"{1e3 * row.median:.0f} ms",
                f"{100 * row.spread:.0f} %",
                "" if row is exact else f"{row.median / exact.median:.2f} x",
                f"{psnr:.2f} dB" if psnr else "",
            )
        print(f"\n{images.printable(model)}, {width} x {height}")
        out.print(table, highlight=False)
    print()
    for memory in results.memory:
        print(
            f"{memory.bytes / 2**20:6.0f} MiB above start-up: "
            f"{images.printable(memory.model)}, {memory.width} x {memory.height}, {_label(memory)}"
        )
    print("\nPSNR: of these weights on the 620 x 460 pictures of SOTS-indoor, as their cards have it")
    for left in results.left_out:
        where = f", {left.size[1]} x {left.size[0]}" if left.size else ""
        complain(f"left out: {left.model}{where}, {left.label}: {left.reason}")


def _label(measured: benchmarks.Row | benchmarks.Memory) -> str:
    return benchmarks.Entry(measured.model, measured.engine, measured.scale, measured.dtype).label
