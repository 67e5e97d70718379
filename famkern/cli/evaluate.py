"""`famkern evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import images, models
from ..dehazer import SCALE, Dehazer
from .options import DeviceOption, DtypeOption, ModelOption, ScaleOption, ThreadsOption, WindowOption, parse_scale
from .terminal import complain, fail, log_to_terminal, out, progress_bar, training_installed, wrong_usage


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Holds hazy/ and clear/, named as in RESIDE; for a teacher, see above."),
    ],
    model: ModelOption = "student",
    csv: Annotated[Path | None, typer.Option(help="Write the figures of each pair to this file.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    window: WindowOption = None,
    scale: ScaleOption = str(SCALE),
) -> None:
    """Measure PSNR and SSIM of a model on pairs of hazy and clear pictures, beside those of the hazy input.

    A teacher enlarges pictures instead. Its PSNR is measured on luma, beside that of bicubic enlargement. FOLDER then holds
    HR/ and LRx2/, or sharp pictures, which are reduced to half their size first.
    """
    log_to_terminal()
    with training_installed():
        from ..training import evaluation
    with wrong_usage():
        network = models.load(model)
        if isinstance(network, models.Teacher):
            if csv or device or dtype or threads or window is not None or scale != str(SCALE):
                raise ValueError(
                    "a teacher is evaluated without --csv, --device, --dtype, --threads, --window and --scale"
                )
            _evaluate_teacher(network, model, folder)
            return
        at = {"device": device, "dtype": dtype, "threads": threads, "window": window, "scale": parse_scale(scale)}
        dehazer = Dehazer(network, **at)  # type: ignore[arg-type]
    scores, failed = [], 0
    try:
        if csv is not None:
            images.check_writable(csv)
        pairs = evaluation.find_pairs(folder)
        with progress_bar(len(pairs)) as bar:
            task = bar.add_task("", total=len(pairs), name="")
            for outcome in evaluation.evaluate(dehazer, pairs):
                if isinstance(outcome, evaluation.Failure):
                    complain(outcome.problem)
                    failed += 1
                else:
                    scores.append(outcome)
                bar.update(task, advance=1, name=escape(images.printable(outcome.hazy.name)))
    except (ValueError, OSError) as error:
        fail(str(error), code=1)
    if not scores:
        fail(f"{folder}: none of its {failed} pairs could be measured", code=1)
    table = Table("", "PSNR", "SSIM", box=None, padding=(0, 2))
    mean = evaluation.mean(scores)
    table.add_row("hazy input", f"{mean.hazy_psnr:.2f} dB", f"{mean.hazy_ssim:.4f}")
    table.add_row(f"{escape(model)}, scale {dehazer.scale}", f"{mean.psnr:.2f} dB", f"{mean.ssim:.4f}")
    out.print(table, highlight=False)
    out.print(f"{len(scores)} pairs; {evaluation.RULES}", highlight=False, soft_wrap=True)
    if csv is not None:
        try:
            evaluation.write_csv(csv, scores)
        except images.ImageError as error:
            fail(str(error), code=1)
    if failed:
        complain(f"{failed} of {len(pairs)} pairs failed, and are in none of these figures")
        raise typer.Exit(1)


def _evaluate_teacher(teacher: models.Teacher, name: str, folder: Path) -> None:
    from ..training import super_resolution

    try:
        scores = list(super_resolution.evaluate(teacher, super_resolution.find_pictures(folder)))
    except (ValueError, OSError) as error:
        fail(str(error), code=1)
    table = Table("", "PSNR of luma", box=None, padding=(0, 2))
    table.add_row("bicubic", f"{sum(score.bicubic_psnr for score in scores) / len(scores):.2f} dB")
    table.add_row(escape(name), f"{sum(score.psnr for score in scores) / len(scores):.2f} dB")
    out.print(table, highlight=False)
    out.print(f"{len(scores)} pictures, x2; {super_resolution.RULES}", highlight=False, soft_wrap=True)
