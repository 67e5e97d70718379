"""Header.read_bytes and Header.write_bytes are upper bounds on the memory of read() and write(), and close ones."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from famkern.images import header, write
from famkern.images.picture import WORKSPACE_BYTES

# Pixels enough for one array too many not to go unnoticed; fewer where coding takes seconds.
LARGE, MIDDLE, SMALL, TINY = (2003, 3001), (1601, 2503), (1201, 1607), (701, 907)

# Source, size, depth, channels, and the formats that it is written to.
CASES = [
    ("jpeg", LARGE, "uint8", 3, ["JPEG", "PNG", "BMP"]),
    ("progressive", MIDDLE, "uint8", 3, []),
    ("sideways", MIDDLE, "uint8", 3, []),
    ("png", LARGE, "uint16", 4, ["PNG"]),
    ("tiff", MIDDLE, "float32", 1, ["TIFF"]),
    ("bmp", LARGE, "uint8", 3, ["TIFF"]),
    ("webp", SMALL, "uint8", 4, ["WEBP"]),
    ("avif", TINY, "uint8", 3, ["AVIF"]),
]

VARIATION = 2 * 2**20  # bytes: peaks of the same step differ by so much from run to run

# Runs in a process of its own, where the kernel's high-water mark of resident memory is set back before each call.
# Noise is the worst case for all that depends on the content.
PROGRAM = """
    import ctypes, gc, json, sys
    import numpy as np
    from PIL import Image
    import famkern.images as images

    def status(name):
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    def peak_of(call):
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc: what was freed is not to be used again unseen
        if trim:
            trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS")
        result = call()
        return result, status("VmHWM") - before

    def noise(*shape):
        random = np.random.default_rng(0)
        if dtype == np.float32:
            return random.random(shape, dtype=np.float32)
        return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)

    folder, cases = sys.argv[1], json.loads(sys.argv[2])
    peaks = {}
    for source, (height, width), dtype, channels, targets in cases:
        dtype, path = np.dtype(dtype), f"{folder}/{source}"
        if source == "progressive":
            settings = {"quality": 60, "subsampling": 0, "progressive": True}
            Image.fromarray(noise(height, width, 3)).save(path, "JPEG", **settings)
        elif source == "sideways":
            exif = Image.Exif()
            exif[274] = 6
            Image.fromarray(noise(width, height, 3)).save(path, "JPEG", exif=exif)
        else:
            pixels = noise(height, width, 3) if channels > 2 else np.repeat(noise(height, width, 1), 3, axis=2)
            alpha = noise(height, width) if channels in (2, 4) else None
            picture = images.Picture(pixels, alpha, channels < 3, format=source.upper())
            images.write(path, picture, format=source)
            pixels = alpha = picture = None
        picture, used = peak_of(lambda: images.read(path))
        peaks[source] = {"read": used}
        for target in targets:
            peaks[source][target] = peak_of(lambda: images.write(f"{folder}/target", picture, format=target))[1]
    print(json.dumps(peaks))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder with the source files, and the peaks by source and step."""
    folder = tmp_path_factory.mktemp("bounds")
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), json.dumps(CASES)]
    # What is freed goes back to the system, so that a peak is not hidden in what an earlier step left behind.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return folder, json.loads(done.stdout)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks cannot be measured here")
@pytest.mark.parametrize(("source", "size", "dtype", "channels", "targets"), CASES)
def test_peaks_stay_below_the_bounds(measured, source, size, dtype, channels, targets):
    folder, peaks = measured
    found = header(folder / source)
    assert ((found.height, found.width), found.channels, found.dtype) == (size, channels, dtype)
    bounds = {"read": found.read_bytes} | {target: found.write_bytes(target) for target in targets}
    assert peaks[source].keys() == bounds.keys()
    for step, peak in peaks[source].items():
        # Half of the allowance for small things is in reserve, so that it does not hide an array.
        assert peak <= bounds[step] - WORKSPACE_BYTES // 2, step
        assert bounds[step] <= 1.5 * peak + WORKSPACE_BYTES + VARIATION, step


def test_the_bounds_of_a_small_picture_are_small(tmp_path, picture):
    write(tmp_path / "a.png", picture())
    found = header(tmp_path / "a.png")
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        assert WORKSPACE_BYTES <= found.write_bytes(format) < WORKSPACE_BYTES + 2**20
    assert WORKSPACE_BYTES <= found.read_bytes < WORKSPACE_BYTES + 2**20
