"""A picture as a job of a batch, as `famkern dehaze FILE` does it, and what the page shows of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .. import batch, images, models
from ..dehazer import Dehazer
from .sessions import drawn, remove
from .settings import Settings

PREVIEW = "preview"  # the folder beside a result that holds what the page shows
PREVIEW_SIDE = 2048  # pixels of its longer side at most
PREVIEW_QUALITY = 90


class PictureError(ValueError):
    """A picture that cannot be dehazed; the message is one line that names it and says what to do."""


@dataclass(frozen=True)
class Result:
    """What became of an upload: the file to download, and two JPEGs to show."""

    target: Path
    before: Path
    after: Path


@cache
def choices() -> dict[str, str]:
    """Models that dehaze, of those that come with famkern: name -> what it is for."""
    students = (models.Student, models.UStudent)
    names = [name for name in models.available() if isinstance(models.load(name), students)]
    return {name: models.zoo.summary(name).split(",")[0].replace(": for", ":") for name in names}


def dehaze(
    upload: Path,
    settings: Settings,
    *,
    model: str,
    strength: float,
    scale: int | str,
    progress: Callable[[float], None],
) -> Result:
    """Dehaze an upload into a folder beside it, in place of its last result.

    Args:
        upload: the picture, in a folder of its own.
        settings: of the server.
        model: one of `choices()`.
        strength, scale: as `Dehazer` has them.
        progress: called with the finished fraction; what it raises ends the run.

    Raises:
        PictureError: if it cannot be done.
    """
    if upload.suffix.lower() and batch.Job(upload, upload).is_film:
        raise PictureError(
            f"{upload.name}: is a film, and this page is for pictures; use famkern dehaze on the command line"
        )
    if not isinstance(model, str) or model not in choices():
        raise PictureError(f"{upload.name}: there is no model {model!r} here; choose one of {', '.join(choices())}")
    try:
        dehazer = _packed(model, settings.device, settings.dtype, settings.threads)
        dehazer = dehazer.adjusted(strength=strength, scale=scale)
    except ValueError as error:
        raise PictureError(f"{upload.name}: {error}") from error
    earlier = [path for path in upload.parent.iterdir() if path.is_dir()]
    folder = drawn(upload.parent)
    try:
        result = _dehaze(upload, folder, dehazer, settings.options(), progress)
    except BaseException:
        remove(folder)
        raise
    for path in earlier:
        remove(path)
    return result


@cache
def _packed(model: str, device: str | None, dtype: str | None, threads: int | None) -> Dehazer:
    """Weights that are loaded and packed, which takes longer than dehazing a small picture."""
    return Dehazer(model, device=device, dtype=dtype, threads=threads)


def _dehaze(
    upload: Path, folder: Path, dehazer: Dehazer, options: batch.Options, progress: Callable[[float], None]
) -> Result:
    (job,) = batch.plan_jobs([upload], folder, options=options)
    (outcome,) = batch.dehaze_files([job], dehazer, options, lambda _, fraction: progress(fraction))
    if not outcome.done or job.compare is None:
        problem = outcome.problem or f"{upload}: skipped, {outcome.skipped and outcome.skipped.value}"
        raise PictureError(_with_names(problem, folder, upload.parent))
    try:
        before, after = _previews(job.compare, folder / PREVIEW)
        job.compare.unlink()
    except (images.ImageError, OSError) as error:
        raise PictureError(_with_names(f"{upload}: cannot be shown ({error})", folder, upload.parent)) from error
    return Result(job.target, before, after)


def _with_names(problem: str, *folders: Path) -> str:
    """The same line with names instead of paths, which tell a visitor nothing."""
    for folder in folders:
        problem = problem.replace(f"{folder}{os.sep}", "")
    return problem


def _previews(comparison: Path, folder: Path) -> tuple[Path, Path]:
    """The two halves of a comparison, reduced, as JPEGs: before and after."""
    folder.mkdir()
    both = images.read(comparison)
    paths = folder / "before.jpg", folder / "after.jpg"
    for path, half in zip(paths, images.halves(both.pixels), strict=True):
        picture = Image.fromarray(half)
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
        images.write(path, replace(both, pixels=np.array(picture)), quality=PREVIEW_QUALITY)
    return paths
