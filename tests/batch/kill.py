"""`famkern dehaze` killed at random moments, by SIGKILL, and run again until it is done: nothing half, nothing lost.

    python tests/batch/kill.py [--kills 20] [--pictures 12] [--seed 0]        (make kill)

The folder has pictures of several formats, one giant that is streamed, and a film. After each kill every file at its place
must be that of an undisturbed run, byte for byte; at the end all must be there, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "famkern", "dehaze", "in", "-o"]
OPTIONS = ["--scale", "6", "--memory", "96MiB", "--quiet"]
FORMATS = ("jpg", "png", "tif", "webp")
GIANT, FRAME, FRAMES = (5000, 4000), (360, 640), 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "in", given.pictures)
        start = time.perf_counter()
        subprocess.run([*COMMAND, "whole", *OPTIONS], cwd=folder, check=True)
        seconds = time.perf_counter() - start
        wanted = contents(folder / "whole")
        print(f"{len(wanted)} files, undisturbed {seconds:.1f} s")
        kills = runs = 0
        while kills < given.kills:
            target = folder / f"out{runs}"
            while not finished(folder, target.name, draw.uniform(0, seconds)):
                kills += 1
                there = contents(target)
                wrong = [path for path in there if path in wanted and there[path] != wanted[path]]
                if wrong:
                    sys.exit(f"after kill {kills}: {', '.join(wrong)} differ")
                print(f"kill {kills}: {len(there.keys() & wanted.keys())} of {len(wanted)} files there")
            if (there := contents(target)) != wanted:
                sys.exit(f"after {kills} kills: {', '.join(sorted(there.keys() ^ wanted.keys())) or 'contents'} differ")
            runs += 1
    print(f"{kills} kills, {runs} runs to the end: the same files, and nothing else")


def fill(folder: Path, pictures: int) -> None:
    """Make what is to be dehazed."""
    folder.mkdir()
    for index in range(pictures):
        Image.fromarray(picture(index, (401 + 37 * index, 600))).save(
            folder / f"{index}.{FORMATS[index % len(FORMATS)]}"
        )
    Image.fromarray(picture(0, GIANT)).save(folder / "giant.tif")
    try:
        import av
    except ModuleNotFoundError:
        print("no film: PyAV is not installed (pip install 'famkern[video]')")
        return
    with av.open(str(folder / "film.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *FRAME, "yuv420p"
        for index in range(FRAMES):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, FRAME), "rgb24")))
        film.mux(stream.encode(None))


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
    """Some smooth colours, and a little noise."""
    y, x = np.mgrid[: size[0], : size[1]]
    noise = np.random.default_rng(index).integers(0, 9, (*size, 3))
    return (np.stack([x // 3 + index, y // 4, (x + y) // 5], -1) % 120 + 80 + noise).astype(np.uint8)


def finished(folder: Path, target: str, seconds: float) -> bool:
    """Whether a run came to its end; it is killed after so many seconds."""
    process = subprocess.Popen([*COMMAND, target, *OPTIONS], cwd=folder, start_new_session=True)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return False
    if code:
        sys.exit(f"a run ended with exit code {code}")
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files in a folder and those below, by their names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    main()
