"""Hours of `famkern serve` and of films: memory and descriptors stay as they are, and everybody gets their own picture.

    python -m tests.serve.soak [--minutes 120]        (make soak)

Two visitors send pictures to one server all the time, each always the same few, and compare what they get with what they
got the first time; meanwhile this process dehazes one film again and again. Ends with an error if one of the two processes
has grown by more than GROWTH: by the least that it holds in the last fifth of the time and in the second, between pictures.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from famkern import Dehazer, video

from .visitor import Running, Visitor

GROWTH = 64 << 20  # bytes; more pages of a heap that is torn are no leak
DESCRIPTORS = 8
SIZES = ((300, 400), (211, 333), (480, 640))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    seconds = 60 * parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "serve").mkdir()
        server = Running(folder / "serve")
        try:
            soak(server, film(folder / "film.mp4"), folder / "clear.mp4", seconds)
        finally:
            server.process.kill()
            server.process.communicate()


def soak(server: Running, source: Path, target: Path, seconds: float) -> None:
    """Do it for so long; ends the program with a line if something is wrong."""
    end, counts, problems = time.monotonic() + seconds, [0, 0], list[str]()
    visitors = [threading.Thread(target=visit, args=(server, i, end, counts, problems), daemon=True) for i in range(2)]
    for visitor in visitors:
        visitor.start()
    processes = {"serve": psutil.Process(server.process.pid), "film": psutil.Process()}
    samples: list[tuple[float, dict[str, tuple[int, int]]]] = []
    films, said = 0, 0.0
    dehazer, whole = Dehazer(scale=3), b""
    while time.monotonic() < end and not problems:
        video.dehaze_film(source, target, dehazer)
        if whole and target.read_bytes() != whole:
            problems.append("a film differs from the first one")
        whole, films = target.read_bytes(), films + 1
        now = {name: (process.memory_info().rss, process.num_fds()) for name, process in processes.items()}
        samples.append((1 - (end - time.monotonic()) / seconds, now))
        if time.monotonic() > said + 60:
            said = time.monotonic()
            text = ", ".join(f"{name} {memory >> 20} MiB, {files} descriptors" for name, (memory, files) in now.items())
            print(f"{films} films, {counts[0]} and {counts[1]} pictures; {text}", flush=True)
    for visitor in visitors:
        visitor.join()
    early = [each for part, each in samples if 0.2 <= part < 0.4]
    late = [each for part, each in samples if part >= 0.8]
    for name in processes if early and late else ():
        (memory, files), (memory_now, files_now) = (min(each[name] for each in some) for some in (early, late))
        if memory_now > memory + GROWTH:
            problems.append(f"{name} has grown from {memory >> 20} to {memory_now >> 20} MiB")
        if files_now > files + DESCRIPTORS:
            problems.append(f"{name} has {files_now} descriptors instead of {files}")
    if problems or not (early and late and all(counts)):
        sys.exit("; ".join(problems) or "too short: nothing was compared")
    print(f"{films} films, {counts[0]} and {counts[1]} pictures: all as the first time, and nothing has grown")


def visit(server: Running, number: int, end: float, counts: list[int], problems: list[str]) -> None:
    """A visitor, until the end."""
    seen: dict[str, bytes] = {}
    try:
        with Visitor(server.address, f"visitor{number}") as visitor:
            for name, content in pictures(number):
                if time.monotonic() > end or problems:
                    return
                answer = visitor.dehaze(name, content)
                if isinstance(answer, str):
                    raise AssertionError(answer)
                file = visitor.http.get(answer[2]).content
                if (
                    seen.setdefault(name, file) != file
                    or Image.open(io.BytesIO(file)).size != Image.open(io.BytesIO(content)).size
                ):
                    raise AssertionError(f"{name} is not what it was")
                counts[number] += 1
    except Exception as error:
        problems.append(f"visitor {number}: {error}")


def pictures(number: int) -> Iterator[tuple[str, bytes]]:
    """Always the same few, of this visitor alone."""
    made = []
    for index, size in enumerate(SIZES):
        file = io.BytesIO()
        Image.fromarray(picture(10 * number + index, size)).save(file, "JPEG")
        made.append((f"{number}-{index}.jpg", file.getvalue()))
    while True:
        yield from made


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Noise in large patches."""
    patches = np.random.default_rng(seed).integers(90, 250, (-(-size[0] // 32), -(-size[1] // 32), 3), dtype=np.uint8)
    return patches.repeat(32, 0).repeat(32, 1)[: size[0], : size[1]]


def film(path: Path) -> Path:
    """A short one."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for index in range(50):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index // 10, (240, 320)), "rgb24")))
        out.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    main()
