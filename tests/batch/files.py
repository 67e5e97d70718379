"""Files for batches, and what became of them."""

import numpy as np
from PIL import Image

from famkern.batch import Options, dehaze_files, plan_jobs


def picture(path, size=(13, 9), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(inputs, output, dehazer, recursive=False, **options):
    """The outcomes, as words."""
    options = Options(**options)
    jobs = plan_jobs(inputs, output, recursive=recursive, options=options)
    outcomes = list(dehaze_files(jobs, dehazer, options))
    assert [outcome.job for outcome in outcomes] == jobs
    return ["done" if o.done else o.skipped or o.problem for o in outcomes]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
