"""Peak memory of reading and writing picture files, and the bounds that famkern.images states for it.

    python benchmarks/codec_memory.py [--sizes 512 1024 2048] [--codecs avif jxl heif webp]

Each line is one file, read or written in a process of its own; peaks are of resident memory above what the process held
before. Noise is what codecs need most for. Bytes a pixel, the bound's beside the peak's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CODECS = ("avif", "avif10", "avif12", "jxl", "jxl16", "jxl-lossy", "heif", "heif10", "webp", "webp-lossless")


def noise(side: int, depth: int, channels: int):
    import numpy as np

    random = np.random.default_rng(0)
    dtype = np.uint8 if depth == 8 else np.uint16
    return random.integers(0, 2**depth, (side, side, channels), dtype)


def make(codec: str, side: int, channels: int, path: str) -> None:
    """A file as this codec writes it."""
    import imagecodecs
    from PIL import Image

    pixels = noise(side, int(codec[-2:]) if codec[-2:].isdigit() else 8, channels)
    if codec.startswith("avif"):
        depth = int(codec[4:] or 8)
        data = imagecodecs.avif_encode(pixels, level=95, speed=8, bitspersample=depth, pixelformat="444")
    elif codec == "jxl-lossy":
        data = imagecodecs.jpegxl_encode(pixels, level=90, effort=3)
    elif codec.startswith("jxl"):
        data = imagecodecs.jpegxl_encode(pixels, lossless=True, effort=1)
    elif codec.startswith("heif"):
        import pillow_heif

        mode = "RGBA" if channels == 4 else "RGB"
        if codec == "heif":
            image = pillow_heif.from_bytes(mode, (side, side), pixels.tobytes())
        else:
            image = pillow_heif.from_bytes(f"{mode};16", (side, side), (pixels << 6).tobytes())
        image.save(path, quality=90)
        return
    else:
        Image.fromarray(pixels).save(path, "WEBP", lossless=codec == "webp-lossless", quality=90, method=0)
        return
    Path(path).write_bytes(data)


def measure(step: str, path: str, side: int, channels: int, lossless: bool) -> None:
    """One step; prints its peak and the bound on it."""
    import famkern.images as images

    def status(name: str) -> int:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    if step == "read":
        found = images.header(path)
        bound = found.read_bytes - images.WORKSPACE_BYTES

        def call() -> None:
            images.read(path)
    else:
        pixels = noise(side, 8, channels)
        alpha = pixels[..., 3].copy() if channels == 4 else None
        picture = images.Picture(pixels[..., :3].copy(), alpha, format="WEBP" if lossless else "PNG", lossless=lossless)
        from famkern.images.writing import write_bytes

        bound = write_bytes(side, side, channels, pixels.dtype, step) - images.WORKSPACE_BYTES
        del pixels

        def call() -> None:
            images.write(path, picture, format=step)

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not to be there for the step to use unseen
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    call()
    print(json.dumps({"peak": status("VmHWM") - before, "bound": bound}))


def run(*arguments: object) -> str:
    command = [sys.executable, __file__, *map(str, arguments)]
    # What is freed goes back to the system, so that a peak is not hidden in what an earlier step left behind.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    parser.add_argument("--channels", type=int, nargs="+", default=[3, 4])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for codec in arguments.codecs:
            for channels in arguments.channels:
                for side in arguments.sizes:
                    path = f"{folder}/a.{codec}"
                    run("--make", codec, side, channels, path)
                    found = {"read": json.loads(run("--measure", "read", path, side, channels, 0))}
                    if codec in ("avif", "webp", "webp-lossless"):
                        format = codec.split("-")[0]
                        lossless = int(codec.endswith("lossless"))
                        found["write"] = json.loads(run("--measure", format, path, side, channels, lossless))
                    for step, figures in found.items():
                        peak, bound = (figures[name] / side**2 for name in ("peak", "bound"))
                        line = f"{codec:14} {channels} channels {side:5} a side {step:6}"
                        print(f"{line} peak {peak:6.1f}  bound {bound:6.1f}  bytes a pixel", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    elif sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), bool(int(sys.argv[6])))
    else:
        main()
