"""What was measured, as a page in Markdown."""

from __future__ import annotations

from .results import Results, in_times, in_words, psnr_of


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
    for model in dict.fromkeys(row.entry.model for row in results.rows):
        lines += _summary(results, model)
    for group in results.groups():
        exact = group[0]
        lines += [
            f"## {exact.entry.model}, {exact.width} x {exact.height}",
            "",
            "| | median | spread | beside scale 1 | PSNR |",
            "|---|---|---|---|---|",
        ]
        for row in group:
            psnr = psnr_of(row)
            figures = f"{1e3 * row.median:.0f} ms | {100 * row.spread:.0f} % | {row.median / exact.median:.2f}x | "
            lines.append(f"| {row.entry.label} | {figures}{f'{psnr:.2f} dB' if psnr else ''} |")
        lines.append("")
    for comparison in results.comparisons:
        lines += [f"## {comparison.title}", "", f"| | a {comparison.unit} | |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in comparison.rows()]
        lines += ["", *(f"Left out: {label}: {reason}." for label, reason in comparison.left_out.items()), ""]
    if results.memory:
        lines += ["## Memory", "", "Peak resident memory of one picture, beyond that of the process before it.", ""]
        lines += ["| network | picture | | MiB |", "|---|---|---|---|"]
        for m in results.memory:
            lines.append(f"| {m.entry.model} | {m.width} x {m.height} | {m.entry.label} | {m.bytes / 2**20:.0f} |")
        lines.append("")
    if results.left_out:
        lines += ["## Left out", ""]
        for left in results.left_out:
            where = f", {left.size[1]} x {left.size[0]}" if left.size else ""
            lines.append(f"- {left.entry.model}{where}, {left.entry.label}: {left.reason}")
        lines.append("")
    return "\n".join(lines)


def _summary(results: Results, model: str) -> list[str]:
    """Of one network: seconds at each size, and how many times those of famkern at scale 1 they are."""
    groups = [group for group in results.groups() if group[0].entry.model == model]
    sizes = [f"{group[0].width} x {group[0].height}" for group in groups]
    lines = [f"## {model}", "", f"| | {' | '.join(sizes)} | PSNR |", "|---" * (len(sizes) + 2) + "|"]
    for entry in dict.fromkeys(row.entry for group in groups for row in group):
        cells, psnr = [], None
        for group in groups:
            row = next((row for row in group if row.entry == entry), None)
            if row is None:
                cells.append("")
                continue
            ratio = "" if row is group[0] else f", {in_times(row.median / group[0].median)}"
            cells.append(f"{in_words(row.median)}{ratio}")
            psnr = psnr_of(row)
        lines.append(f"| {entry.label} | {' | '.join(cells)} | {f'{psnr:.2f} dB' if psnr else ''} |")
    return [*lines, ""]
