"""What was measured, as a page in Markdown."""

from __future__ import annotations

from .measuring import FAMKERN, Entry
from .results import Memory, Results, Row, psnr_of


def label(measured: Row | Memory) -> str:
    """What ran the network, and how, as tables name it."""
    return Entry(measured.model, measured.engine, measured.scale, measured.dtype).label


def page(results: Results, picture: str | None = None) -> str:
    """A page of all figures.

    Args:
        results: of a run.
        picture: address of the plot, from the page.
    """
    machine = results.machine
    lines = [
        f"# famkern on {machine['processor']}, {machine['threads']} threads",
        "",
        f"famkern {machine['famkern']}, PyTorch {machine['torch']}, kernels for {machine['kernels']}.",
        "Medians of interleaved rounds of `famkern bench`, which checks every result first; the spread is the",
        "difference of the quartiles. PSNR is that of the weights on the 70 pairs of SOTS-indoor, pictures of 620 x 460,",
        "by their cards.",
        "",
    ]
    if picture:
        lines += [f"![Time and memory against megapixels, PSNR against time]({picture})", ""]
    groups = {(row.model, row.height, row.width): None for row in results.rows}
    for model, height, width in groups:
        lines += [
            f"## {model}, {width} x {height}",
            "",
            "| | median | spread | beside scale 1 | PSNR |",
            "|---|---|---|---|---|",
        ]
        for row in results.rows:
            if (row.model, row.height, row.width) != (model, height, width):
                continue
            psnr = psnr_of(row) if row.engine == FAMKERN else None
            beside = row.median / results.exact(row).median
            figures = f"{1e3 * row.median:.0f} ms | {100 * row.spread:.0f} % | {beside:.2f}x | "
            lines.append(f"| {label(row)} | {figures}{f'{psnr:.2f} dB' if psnr else ''} |")
        lines.append("")
    if results.memory:
        lines += ["## Memory", "", "Peak resident memory of one picture, beyond that of the process before it.", ""]
        lines += ["| network | picture | | MiB |", "|---|---|---|---|"]
        for m in results.memory:
            lines.append(f"| {m.model} | {m.width} x {m.height} | {label(m)} | {m.bytes / 2**20:.0f} |")
        lines.append("")
    if results.left_out:
        lines += ["## Left out", ""]
        for left in results.left_out:
            where = f", {left.size[1]} x {left.size[0]}" if left.size else ""
            lines.append(f"- {left.model}{where}, {left.label}: {left.reason}")
        lines.append("")
    return "\n".join(lines)
