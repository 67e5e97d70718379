"""From the source distribution to a wheel, and from that to a picture in an environment that has never seen the sources."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(*command, cwd=None, **settings):
    """Run a command, with these environment variables beside those that do not change what is built or imported."""
    kept = {name: value for name, value in os.environ.items() if name not in ("FAMKERN_REQUIRE_EXT", "PYTHONPATH")}
    command = list(map(str, command))
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env={**kept, **settings})


def told(result):
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    result = run(sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder, cwd=ROOT)
    assert result.returncode == 0, told(result)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def build_wheel(source, target, **environment):
    """Build a wheel without a network: with the setuptools, ninja and torch that are here."""
    result = run(
        *(sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", target, source),
        **environment,
    )
    assert result.returncode == 0, told(result)
    (wheel,) = Path(target).glob("*.whl")
    return wheel, told(result)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    if shutil.which(os.environ.get("CXX", "g++")) is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C++ compiler")
    # Of one instruction set and with less optimisation, so that it compiles in less time.
    quick = {"FAMKERN_ISAS": "portable", "CXXFLAGS": "-O1 -w", "FAMKERN_CUDA": "0"}
    return build_wheel(source, tmp_path_factory.mktemp("wheel"), **quick)[0]


def test_the_source_distribution_holds_everything_that_git_does(source):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a checkout and git")
    tracked = run("git", "ls-files", cwd=ROOT).stdout.split("\n")
    left_out = re.compile(r"\.ci/|\.git")
    missing = [
        name
        for name in tracked
        if name and (ROOT / name).exists() and not left_out.match(name) and not (source / name).exists()
    ]
    assert not missing


@pytest.mark.slow
def test_the_wheel_is_for_every_python_and_for_old_systems(wheel):
    assert re.fullmatch(r"famkern-[\d.a-z]+-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        library = file.read("famkern/_C.so")
    for name in ("py.typed", "__main__.py", "kernels/aot.py", "training/run.py", "models/weights/student.safetensors"):
        assert f"famkern/{name}" in names
    assert not [name for name in names if not name.startswith("famkern")]
    assert b"PyObject" not in library
    for prefix, newest in (("GLIBC", (2, 28)), ("GLIBCXX", (3, 4, 24)), ("CXXABI", (1, 3, 11)), ("GCC", (8,))):
        found = re.findall(rb"\0" + prefix.encode() + rb"_([0-9.]+)(?=\0)", library)
        assert all(tuple(map(int, version.split(b"."))) <= newest for version in found), (prefix, found)
    assert b"GLIBC_2" in library
    assert b"libgomp" not in library


@pytest.mark.slow
def test_an_empty_environment_dehazes_the_example(wheel, tmp_path):
    """Its PyTorch, NumPy and so on are those of the tests' environment; famkern is the wheel's."""
    environment = tmp_path / "environment"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    python = environment / "bin" / "python"
    result = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert result.returncode == 0, told(result)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    here = {str(Path(np.__file__).parents[1]), str(Path(Image.__file__).parents[1])}
    (packages / "others.pth").write_text("\n".join(here))
    found = run(python, "-c", "import famkern; print(famkern.__file__)", cwd=tmp_path)
    assert found.stdout.startswith(str(packages)), told(found)
    information = run(environment / "bin" / "famkern", "info", cwd=tmp_path)
    assert information.returncode == 0, told(information)
    assert "this CPU has" in information.stdout
    Image.open(ROOT / "examples/lake-sherburne-hazy.jpg").resize((320, 240)).save(tmp_path / "hazy.png")
    result = run(environment / "bin" / "famkern", "dehaze", "hazy.png", "-o", "clear.png", cwd=tmp_path)
    assert (result.returncode, told(result)) == (0, "")
    result = run(sys.executable, "-m", "famkern", "dehaze", "hazy.png", "-o", "here.png", cwd=tmp_path)
    assert result.returncode == 0, told(result)
    clear, ours = (np.asarray(Image.open(tmp_path / name)) for name in ("clear.png", "here.png"))
    assert clear.shape == (240, 320, 3)
    assert np.abs(clear.astype(int) - ours).max() <= 1  # which may be another build, or run on PyTorch's operators


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-compiler", "there is no C++ compiler"), ("false", "false fails")]
)
def test_without_a_compiler_that_works_the_package_is_pure_python(source, tmp_path, compiler, reason):
    copy = shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("build"))
    (copy / "famkern" / "_C.so").write_bytes(b"of an earlier build")
    result = run(sys.executable, "setup.py", "bdist_wheel", "-d", tmp_path, cwd=copy, CXX=compiler)
    assert result.returncode == 0, told(result)
    assert told(result).count("famkern installs without its kernels") == 1
    assert reason in told(result)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        assert "famkern/_C.so" not in file.namelist()
    result = run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=copy, CXX=compiler)
    assert result.returncode == 0, told(result)
    assert not (copy / "famkern" / "_C.so").exists()


def test_where_kernels_are_required_a_compiler_that_fails_is_an_error(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("build"))
    settings = {"CXX": "false", "FAMKERN_REQUIRE_EXT": "1"}
    result = run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=copy, **settings)
    assert result.returncode != 0
    assert "FAMKERN_REQUIRE_EXT=1 makes that an error" in told(result)
