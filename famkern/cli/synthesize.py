"""`famkern synthesize`."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .terminal import complain, end_interrupted, fail, log_to_terminal, out, progress_bar

Kind = Enum("Kind", {name: name for name in ("photos", "solved", "depth", "pairs")}, type=str)  # type: ignore[misc]
HazeKind = Enum("HazeKind", {name: name for name in ("indoor", "outdoor")}, type=str)  # type: ignore[misc]


def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, laid out as --kind says.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="A folder, created.")],
    count: Annotated[int, typer.Option(min=1, help="Pairs to write.")] = 20,
    kind: Annotated[
        Kind,
        typer.Option(
            help="What FOLDER holds. photos: any pictures, whose depth is made up; depth: rgb/ and depth/; solved: hazy/ "
            "and clear/ as in RESIDE, whose depth is computed from both and whose haze is made anew; pairs: hazy/ and "
            "clear/, which stay as they are."
        ),
    ] = Kind.photos,  # type: ignore[attr-defined]
    haze: Annotated[
        HazeKind | None, typer.Option(help="Kind of haze to add. Default: indoor for --kind solved, else outdoor.")
    ] = None,
    sky: Annotated[bool, typer.Option("--sky", help="The greatest depth in a file is sky; for --kind depth.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is drawn.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Limit on the longer side, in pixels.")] = 1024,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing pairs, which are skipped otherwise.")
    ] = False,
) -> None:
    """Make hazy pictures as training does, but none without haze: OUT/hazy, OUT/clear, OUT/transmission (16-bit grey).

    `famkern evaluate OUT` reads them. Exit code 0 if all went well, 1 if a pair failed (the others are done).
    """
    log_to_terminal()
    from ..training import data
    from ..training.data.synthesis import synthesize as pairs_of

    for option, given, kinds in (("--haze", haze, ("photos", "solved", "depth")), ("--sky", sky, ("depth",))):
        if given and kind.value not in kinds:
            fail(f"{option} goes with --kind {', '.join(kinds)}, not {kind.value}", code=2)
    preset = getattr(data.Haze, haze.value if haze else "indoor" if kind.value == "solved" else "outdoor")
    added = dataclasses.replace(preset(), none=0.0)
    sources: dict[str, data.Source] = {
        "photos": data.Photos(folder, haze=added),
        "solved": data.Solved(folder, haze=added),
        "depth": data.Depths(folder, haze=added, sky=sky),
        "pairs": data.Pairs(folder),
    }
    failed = done = skipped = 0
    try:
        with progress_bar(count) as bar:
            task = bar.add_task("", total=count, name="")
            for outcome in pairs_of(sources[kind.value], output, count, seed=seed, size=size, overwrite=overwrite):
                skipped, failed = skipped + outcome.skipped, failed + bool(outcome.problem)
                done += not (outcome.skipped or outcome.problem)
                bar.update(task, advance=1, name=escape(outcome.hazy.name))
                if outcome.problem:
                    complain(outcome.problem)
    except (ValueError, OSError) as error:
        fail(str(error), code=1)
    except KeyboardInterrupt:
        end_interrupted(f"interrupted; {done} of {count} pairs are done and kept")
    if out.is_terminal:
        out.print(f"{done} done, {skipped} skipped, {failed} failed: {escape(str(output))}", highlight=False)
    if failed:
        raise typer.Exit(1)
