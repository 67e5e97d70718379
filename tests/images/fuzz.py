"""Mutated files through header(), read() and write(): an ImageError or a picture, never a crash, a hang or a word.

    python tests/images/fuzz.py [--count 100000] [--seed 0] [--keep FOLDER]        (make fuzz)

Works in processes of its own, so that a crash is a finding like any other. Every finding is kept as a file.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))

from corpus import corpus

from famkern import images

SECONDS = 20  # of the processor, for one file
BATCH = 2000  # files of one process


def mutated(data: bytes, draw: random.Random) -> bytes:
    """`data` with a few bytes changed, most in the first 600, and now and then a part doubled, lost or cut off."""
    result = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        reach = len(result) if draw.random() < 0.3 else min(len(result), 600)
        place = draw.randrange(reach)
        result[place] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256), result[place] ^ 1 << draw.randrange(8)))
    fate, start = draw.random(), draw.randrange(len(result))
    length = draw.randrange(1, 64)
    if fate < 0.1:
        del result[start : start + length]
    elif fate < 0.2:
        result[start:start] = result[start : start + length]
    elif fate < 0.25:
        del result[max(1, start) :]
    return bytes(result)


def check(path: Path, target: Path) -> None:
    """What must hold for any content of `path`."""
    with contextlib.suppress(images.ImageError):
        images.header(path, max_pixels=10**6)
        picture = images.read(path, max_pixels=10**6)
        images.write(target, picture, format=picture.format if picture.format in images.SUFFIXES.values() else "PNG")


def work(seed: int, start: int, count: int, folder: Path) -> None:
    """Files `start` to `start + count` of this seed; ends with a line on the first finding."""
    logging.getLogger("famkern").addHandler(logging.NullHandler())
    logging.getLogger("famkern").propagate = False
    warnings.simplefilter("always")
    files = sorted(corpus().items())

    def too_long(*_: object) -> None:
        raise TimeoutError(f"over {SECONDS} s")

    signal.signal(signal.SIGPROF, too_long)
    for number in range(start, start + count):
        draw = random.Random(f"{seed}/{number}")
        name, data = draw.choice(files)
        path = folder / f"{number}{Path(name).suffix}"
        path.write_bytes(mutated(data, draw))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            check(path, folder / "target")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if os.fstat(1).st_size or os.fstat(2).st_size:
            raise SystemExit(f"{name}: something was printed")
        path.unlink()


def run(count: int, seed: int, keep: Path) -> list[str]:
    """Findings, a line each; the files that they are of are in `keep`."""
    findings = []
    keep.mkdir(parents=True, exist_ok=True)
    number = 0
    while number < count:
        part = min(BATCH, count - number)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
            command = [sys.executable, __file__, "--worker", str(seed), str(number), str(part), folder]
            result = subprocess.run(command, stdout=said, stderr=said, check=False)
            number += part
            if result.returncode:
                (path,) = (path for path in Path(folder).iterdir() if path.name != "target" and path.suffix != ".part")
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
                findings.append(f"{keep / path.name}: exit code {result.returncode} {''.join(last)}")
                (keep / path.name).write_bytes(path.read_bytes())
                number = int(path.stem) + 1
    return findings


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*map(int, sys.argv[2:5]), Path(sys.argv[5]))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--count", type=int, default=100_000)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--keep", type=Path, default=Path("out/fuzz"))
        arguments = parser.parse_args()
        found = run(arguments.count, arguments.seed, arguments.keep)
        print(*found, f"{arguments.count} files, {len(found)} findings", sep="\n")
        raise SystemExit(bool(found))
