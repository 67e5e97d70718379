"""Sizes, control groups, and the promise that a run keeps to its memory bound."""

import subprocess
import sys
import textwrap

import psutil
import pytest

from famkern.engine import available_memory, format_bytes, parse_bytes
from famkern.engine.memory import _cgroup_headroom


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 1 << 30), ("256 MiB", 256 << 20), ("1.5G", 1_500_000_000), ("2gb", 2 * 10**9), ("100", 100), (7, 7)],
)
def test_sizes_are_understood(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1 banana", "1iB", "0", 0, -5])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="a memory bound is"):
        parse_bytes(text)


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes_are_shown_for_people(size, text):
    assert format_bytes(size) == text


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups_version_2_hold_at_every_level(tmp_path):
    write(tmp_path / "cgroup", "0::/a/b\n")
    write(tmp_path / "fs/a/memory.max", "1000\n")
    write(tmp_path / "fs/a/memory.current", "700\n")
    write(tmp_path / "fs/a/memory.stat", "anon 1\ninactive_file 200\n")
    write(tmp_path / "fs/a/b/memory.max", "max\n")
    write(tmp_path / "fs/a/b/memory.current", "700\n")
    assert min(_cgroup_headroom(tmp_path / "cgroup", tmp_path / "fs")) == 500


def test_limits_of_control_groups_version_1_hold_in_a_container(tmp_path):
    """There the path is the host's, and the group's own files lie at the root."""
    write(tmp_path / "cgroup", "5:cpu:/x\n4:memory:/docker/123\n")
    write(tmp_path / "fs/memory/memory.limit_in_bytes", "5000\n")
    write(tmp_path / "fs/memory/memory.usage_in_bytes", "1000\n")
    assert min(_cgroup_headroom(tmp_path / "cgroup", tmp_path / "fs")) == 4000


def test_available_memory_is_no_more_than_the_machine_has():
    assert 0 < available_memory() <= psutil.virtual_memory().total


PROBE = """
    import sys, torch, famkern

    def status(key):
        line = next(line for line in open("/proc/self/status") if line.startswith(key))
        return int(line.split()[1]) * 1024

    memory, call, dtype = sys.argv[1:4]
    height, width, scale = map(int, sys.argv[4:])
    torch.manual_seed(0)
    dehazer = famkern.Dehazer(famkern.models.Student(16, 1, 1), memory=memory, dtype=dtype, scale=scale)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM starts again from here
    result = dehazer(image) if call == "dehaze" else dehazer.transmission(image, image)
    print(status("VmHWM") - before - result.nbytes)
"""

PIL_PROBE = """
    import sys, numpy, torch, famkern
    from PIL import Image

    def status(key):
        line = next(line for line in open("/proc/self/status") if line.startswith(key))
        return int(line.split()[1]) * 1024

    memory, mode = sys.argv[1:]
    dehazer = famkern.Dehazer(famkern.models.Student(16, 2, 1), memory=memory)
    shape = (1500, 2000, len(mode)) if len(mode) > 1 else (1500, 2000)
    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, shape, dtype=numpy.uint8))
    assert image.mode == mode
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    result = dehazer(image)
    print(status("VmHWM") - before - 4 * 1500 * 2000)  # an RGB image holds 4 bytes a pixel in PIL
"""


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_pil_image_keeps_to_the_memory_bound_with_all_its_copies(mode):
    check(PIL_PROBE, "96MiB", mode)


@pytest.mark.parametrize(
    ("memory", "call", "dtype", "size", "scale"),
    [
        ("1GiB", "dehaze", "float32", (2160, 3840), 1),
        ("256MiB", "dehaze", "float32", (2160, 3840), 1),
        ("96MiB", "dehaze", "float16", (2160, 3840), 1),
        ("48MiB", "dehaze", "float32", (1500, 700), 1),
        ("96MiB", "dehaze", "float32", (2160, 3840), 2),
        ("48MiB", "dehaze", "float32", (2160, 3840), 5),
        ("48MiB", "transmission", "float32", (2160, 3840), 3),
    ],
)
def test_a_run_keeps_to_its_memory_bound(memory, call, dtype, size, scale):
    check(PROBE, memory, call, dtype, *map(str, (*size, scale)))


def check(script, memory, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(script), memory, *arguments]
    probe = subprocess.run(command, capture_output=True, text=True, check=False)
    if "clear_refs" in probe.stderr:
        pytest.skip("this system does not let a process reset its peak of resident memory (/proc/self/clear_refs)")
    assert probe.returncode == 0, probe.stderr
    assert int(probe.stdout) <= parse_bytes(memory)
