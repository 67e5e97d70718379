"""`famkern bench`."""

from __future__ import annotations

import os
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
    page: Annotated[
        Path | None, typer.Option(help="Write a page of all figures, with --plot's picture, in Markdown.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure the speed and memory of famkern on this machine's CPU, beside PyTorch and what else is installed.

    Engines run the same network on the same picture and take turns; a wrong result is not timed. Close other programs
    first.
    """
    for path in filter(None, (json, plot, page)):
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
        if page:
            picture = Path(os.path.relpath(plot, page.parent)).as_posix() if plot else None
            with images.replacing(page) as file:
                file.write(benchmarks.page(results, picture).encode())
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
    for group in results.groups():
        table = Table("", *(Column(title, justify="right") for title in ("median", "spread", "", "PSNR")), box=None)
        exact = group[0]
        for row in group:
            psnr = psnr_of(row)
            table.add_row(
                escape(row.entry.label),
                f"{1e3 * row.median:.0f} ms",
                f"{100 * row.spread:.0f} %",
                "" if row is exact else f"{row.median / exact.median:.2f} x",
                f"{psnr:.2f} dB" if psnr else "",
            )
        print(f"\n{images.printable(exact.entry.model)}, {exact.width} x {exact.height}")
        out.print(table, highlight=False)
    for comparison in results.comparisons:
        table = Table("", *(Column(title, justify="right") for title in (f"a {comparison.unit}", "")), box=None)
        for label, *figures in comparison.rows():
            table.add_row(escape(label), *figures)
        print(f"\n{comparison.title}")
        out.print(table, highlight=False)
        for label, reason in comparison.left_out.items():
            complain(f"left out: {label}: {reason}")
    print()
    for memory in results.memory:
        print(
            f"{memory.bytes / 2**20:6.0f} MiB above start-up: "
            f"{images.printable(memory.entry.model)}, {memory.width} x {memory.height}, {memory.entry.label}"
        )
    print("\nPSNR: of these weights on the 620 x 460 pictures of SOTS-indoor, as their cards have it")
    for left in results.left_out:
        where = f", {left.size[1]} x {left.size[0]}" if left.size else ""
        complain(f"left out: {left.entry.model}{where}, {left.entry.label}: {left.reason}")
