"""Builds famkern's compiled part with ninja; everything else about the package is in pyproject.toml.

One library comes out of csrc/, beside the Python package: famkern/_C.so, the operators, registered through LibTorch's
stable ABI (torch >= 2.10). It holds no symbols of Python's, so one wheel serves every Python.

Kernels in csrc/cpu/kernels are compiled once per instruction set and chosen at run time, so a build made on one
machine runs on any other of its architecture.

The kernels in CUDA C++ join _C.so where torch has CUDA and nvcc is there; if nvcc fails, Triton has their work.

    FAMKERN_CUDA=1|0        with or without them, whatever torch has; with 1 it is an error if nvcc is missing or fails
    FAMKERN_REQUIRE_EXT=1   it is an error if a compiler or torch is missing or compiling fails (default: a warning, and an
                            install in pure Python, which works on PyTorch's operators)
    CXX                     the C++ compiler (default g++)
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
TORCH_ABI = "0x020a000000000000"  # the oldest torch the operators load in: 2.10

IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
# Each file in csrc/cpu/kernels is compiled with every line of this table, FAMKERN_ISA naming the instantiation.
INSTRUCTION_SETS: dict[str, list[str]] = {"portable": []}
if IS_X86:
    INSTRUCTION_SETS |= {
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"],
    }
# FAMKERN_ISAS leaves out those that it does not name, where a build must be quick: "portable avx2".
CHOSEN = os.environ.get("FAMKERN_ISAS", " ".join(INSTRUCTION_SETS)).split()
if "portable" not in CHOSEN or set(CHOSEN) - set(INSTRUCTION_SETS):
    raise SystemExit(f"FAMKERN_ISAS={' '.join(CHOSEN)}: portable and any of {', '.join(INSTRUCTION_SETS)} expected")
LEFT_OUT = [f"-DFAMKERN_WITHOUT_{isa.upper()}" for isa in INSTRUCTION_SETS if isa not in CHOSEN]
# Oldest first; the last one also as PTX, for GPUs to come.
GPUS = ("80", "86", "89", "90a")


def cuda_compiler(torch: Path | None) -> Path | None:
    """nvcc, if the stages in CUDA C++ are to be built.

    Raises:
        SystemExit: FAMKERN_CUDA=1 and there is none.
    """
    asked = os.environ.get("FAMKERN_CUDA")
    if asked == "0" or (asked != "1" and not (torch and (torch / "lib/libtorch_cuda.so").exists())):
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc", path=os.path.join(home, "bin")) or shutil.which("nvcc")
    if found is None and asked == "1":
        raise SystemExit(
            "famkern cannot build its stages in CUDA C++: there is no nvcc (FAMKERN_CUDA=1 makes that an error)"
        )
    return Path(found) if found else None


def installed_torch() -> Path | None:
    """Folder of the torch that famkern will run with, also when pip hides it from an isolated build."""
    query = (
        "from importlib.util import find_spec; s = find_spec('torch'); print(s.submodule_search_locations[0], end='')"
    )
    pythons = [sys.executable]
    if os.environ.get("VIRTUAL_ENV"):
        pythons.append(os.path.join(os.environ["VIRTUAL_ENV"], "bin", "python"))
    for python in pythons:
        for flags in ([], ["-E"]):  # -E leaves the isolated environment, which pip makes with PYTHONPATH
            found = subprocess.run([python, *flags, "-c", query], capture_output=True, text=True, cwd="/", check=False)
            if found.stdout and (Path(found.stdout) / "include/torch/csrc/stable/library.h").exists():
                return Path(found.stdout)
    return None


class NinjaBuild(build_ext):
    """Writes a build.ninja for the one extension and lets ninja do the parallel, incremental work."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"  # loaded by torch, not by the import system: no Python tag

    def build_extensions(self) -> None:
        compiler = os.environ.get("CXX", "g++")
        torch = installed_torch()
        if platform.system() != "Linux":
            self.leave_out(f"they are written for Linux, and this is {platform.system()}")
        elif shutil.which(compiler) is None:
            self.leave_out(f"there is no C++ compiler ({compiler})")
        elif torch is None:
            self.leave_out("there is no torch >= 2.10 to build against")
        else:
            try:
                self.build_with_or_without_cuda(compiler, torch)
            except ExecError:
                self.leave_out(f"{compiler} fails, see above")

    def build_with_or_without_cuda(self, compiler: str, torch: Path) -> None:
        nvcc = cuda_compiler(torch)
        try:
            self.build(compiler, torch, nvcc)
        except ExecError:
            if nvcc is None or os.environ.get("FAMKERN_CUDA") == "1":
                raise
            # Too old for these GPUs, or for the compiler of C++. If that is not it, the next attempt fails as well.
            self.warn(f"famkern installs without its kernels in CUDA C++: {nvcc} fails, see above. It uses Triton.")
            self.build(compiler, torch, None)

    def build(self, compiler: str, torch: Path, nvcc: Path | None) -> None:
        """Have ninja bring the extension up to date."""
        # One folder for every kind of build, so that none compiles what another has compiled already.
        build = ROOT / "build" / "ninja"
        build.mkdir(parents=True, exist_ok=True)
        (build / "build.ninja").write_text(self.recipe(self.extensions[0], compiler, torch, nvcc))
        # make -j names pipes there, which Python has closed: ninja would call that an error, and go on.
        os.environ.pop("MAKEFLAGS", None)
        self.spawn([self.ninja(), "-C", str(build), *(["-v"] if os.environ.get("FAMKERN_VERBOSE") else [])])

    def leave_out(self, reason: str) -> None:
        """Install without the kernels and say why, or refuse to go on."""
        if os.environ.get("FAMKERN_REQUIRE_EXT") == "1":
            raise SystemExit(f"famkern cannot build its kernels: {reason} (FAMKERN_REQUIRE_EXT=1 makes that an error)")
        self.warn(f"famkern installs without its kernels: {reason}. It works on PyTorch's operators, slower.")
        for ext in self.extensions:  # what an earlier build left would become part of the package
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        self.extensions.clear()

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        if not self.extensions:  # likewise
            (ROOT / "famkern" / "_C.so").unlink(missing_ok=True)

    @staticmethod
    def ninja() -> str:
        import ninja  # a build requirement: absent when only metadata is asked for

        return str(Path(ninja.BIN_DIR) / "ninja")

    def recipe(self, target: Extension, compiler: str, torch: Path, nvcc: Path | None) -> str:
        """The text of build.ninja."""
        flags = "-O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -DNDEBUG"
        flags = " ".join([flags, *LEFT_OUT, os.environ.get("CXXFLAGS", "")])
        lines = [
            "ninja_required_version = 1.5",
            f"cxx = {compiler}",
            f"flags = {flags} -I{shlex.quote(str(CSRC))}",
            "rule compile",
            "  command = $cxx $flags $extra -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $in $isa",
            "rule link",
            f"  command = $cxx -shared $in -o $out $libs {os.environ.get('LDFLAGS', '')}",
            "  description = link $out",
        ]
        objects = []
        for isa in CHOSEN:
            for source in sorted((CSRC / "cpu/kernels").glob("*.cpp")):
                obj = f"{source.stem}.{isa}.o"
                objects.append(obj)
                lines += [
                    f"build {obj}: compile {escape(source)}",
                    f"  extra = {' '.join(INSTRUCTION_SETS[isa])} -DFAMKERN_ISA={isa} -DFAMKERN_ISA_{isa.upper()}",
                    f"  isa = for {isa}",
                ]
        if nvcc:
            arches = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS]
            arches.append("-gencode=arch=compute_90,code=compute_90")
            lines += [
                "rule cuda",
                f"  command = {shlex.quote(str(nvcc))} -std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden "
                f"-cudart static -I{shlex.quote(str(CSRC))} {' '.join(arches)} -MMD -MF $out.d -c $in -o $out",
                "  depfile = $out.d",
                "  deps = gcc",
                "  description = compile $in for GPUs",
            ]
            for source in sorted((CSRC / "cuda").glob("*.cu")):
                lines.append(f"build {source.stem}.cuda.o: cuda {escape(source)}")
                objects.append(f"{source.stem}.cuda.o")
        stable = f"-isystem {shlex.quote(f'{torch}/include')} -DTORCH_TARGET_VERSION={TORCH_ABI}"
        stable += " -DFAMKERN_CUDA" if nvcc else ""
        for source in target.sources:
            obj = f"{target.name}.{Path(source).stem}.o"
            objects.append(obj)
            lines += [f"build {obj}: compile {escape(ROOT / source)}", f"  extra = {stable}"]
        out = Path(self.get_ext_fullpath(target.name)).resolve()
        out.parent.mkdir(parents=True, exist_ok=True)
        # -lgcc, before the compiler adds its own libraries: helpers of newer compilers, such as conversions of float16,
        # come from the static half of its library, since the shared half of older systems lacks them.
        libs = f"-L{shlex.quote(f'{torch}/lib')} -Wl,--no-as-needed -ltorch_cpu -lc10 -Wl,--as-needed -lgcc"
        if nvcc:
            libs += f" -L{shlex.quote(str(nvcc.resolve().parents[1] / 'lib64'))} -lcudart_static -lrt -ldl"
        lines += [f"build {escape(out)}: link {' '.join(objects)}", f"  libs = {libs}"]
        return "\n".join(lines) + "\n"


def escape(path: Path) -> str:
    """A path as ninja reads it."""
    return re.sub(r"([$ :])", r"$\1", str(path))


class Wheel(bdist_wheel):
    """A wheel for every Python: of this platform with the kernels, of any without them."""

    def get_tag(self) -> tuple[str, str, str]:
        self.root_is_pure = not self.distribution.ext_modules
        return "py3", "none", super().get_tag()[2]


FOLDERS = {"famkern": "famkern", "famkern.kernels": "kernels", "famkern.training": "training"}

setup(
    packages=[
        name + ("." + sub if sub else "") for name, folder in FOLDERS.items() for sub in ("", *find_packages(folder))
    ],
    package_dir=FOLDERS,
    package_data={"famkern": ["py.typed"], "famkern.models": ["weights/*"]},
    ext_modules=[Extension("famkern._C", sorted(str(path.relative_to(ROOT)) for path in CSRC.glob("*.cpp")))],
    cmdclass={"build_ext": NinjaBuild, "bdist_wheel": Wheel},
)
