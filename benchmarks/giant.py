"""How much memory and disk a giant TIFF takes, see famkern/batch/pictures.py.

    python benchmarks/giant.py 12000 --memory 2GiB --scale 6 --folder build/giant

makes a picture of 12000 x 12000 pixels in the folder unless it is there, dehazes it in a process of its own as
`famkern dehaze` does, and prints seconds, the peak of resident memory above what the process had after its start, and the
sizes of spill files and output. FAMKERN_SPILL_DIR says where spill files go.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from famkern.images import TILE

PROGRAM = """
    import pathlib, sys, time
    import famkern
    from famkern import batch

    def status(name):
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    source, target, memory, scale, dtype, threads = sys.argv[1:]
    dehazer = famkern.Dehazer(scale=int(scale), dtype=dtype or None, threads=int(threads))
    disk = 0
    for dry_run in (True, False):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, start = status("VmRSS"), time.perf_counter()
        options = batch.Options(memory=memory or None, dry_run=dry_run, overwrite=True)
        (outcome,) = batch.dehaze_files(batch.plan_jobs([source], target, options=options), dehazer, options)
        if outcome.problem:
            sys.exit(outcome.problem)
        disk += outcome.disk
    peak, seconds = status("VmHWM") - before, time.perf_counter() - start
    written = pathlib.Path(target).stat().st_size
    print(f"{seconds:.0f} s, peak {peak / 2**20:.0f} MiB, spilled {disk / 2**20:.0f} MiB, output {written / 2**20:.0f} MiB")
"""


def tiles(side: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Of a hazy slope with grain."""
    rng = np.random.default_rng(0)
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            y, x = np.mgrid[top : top + TILE, left : left + TILE] / side
            slope = np.stack([0.5 + 0.2 * np.sin(9 * x + k) * np.cos(7 * y) for k in range(3)], axis=-1)
            grain = rng.integers(-4, 5, (TILE, TILE, 3)) / 255
            yield np.rint((slope + grain) * np.iinfo(dtype).max).astype(dtype)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", type=int)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--dtype", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    source, dtype = given.folder / f"{given.side}-{given.bits}.tif", np.dtype(f"uint{given.bits}")
    if not source.exists():
        shape = (given.side, given.side, 3)
        settings = {"photometric": "rgb", "compression": "zlib", "predictor": True, "tile": (TILE, TILE)}
        tifffile.imwrite(source, tiles(given.side, dtype), shape=shape, dtype=dtype, **settings)
    options = [source, given.folder / "out.tif", given.memory, given.scale, given.dtype, given.threads]
    subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, options)], check=True)


if __name__ == "__main__":
    main()
