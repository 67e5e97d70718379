"""The CUDA kernels compile for every GPU that they are for, within the resources they were designed for.

With -s it prints the registers that docs/gpu-kernels.md has: of a thread of each kernel, with one mean and over windows.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc")
KINDS = ("head", "block", "group", "last_group", "tail", "down", "up", "u_tail")  # in the order of StageKind
# Registers of a thread at most: three blocks of 128 threads on a multiprocessor, two in a group.
REGISTERS = dict.fromkeys(KINDS, 168) | {"group": 255}


AFFINITY = {"maps_kernel": 80, "gram_kernel": 80, "spread_kernel": 80}  # three blocks of 256 threads
# FAMKERN_ALL_KERNELS=1 compiles for every GPU, which takes minutes.
GPUS = ["sm_80", "sm_86", "sm_89", "sm_90a"] if os.environ.get("FAMKERN_ALL_KERNELS") == "1" else ["sm_90a"]

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


def registers(name: str, gpu: str, folder: Path) -> dict[str, int]:
    """Of a thread of each kernel in a file of csrc/cuda; none of them may spill any."""
    source, out = ROOT / f"csrc/cuda/{name}.cu", folder / "kernels.cubin"
    command = [NVCC, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-arch={gpu}", "-Xptxas", "-v", "-cubin", source]
    run = subprocess.run([*command, "-o", out], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr
    found = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        run.stderr,
        re.DOTALL,
    )
    for kernel, stores, loads, _ in found:
        assert (stores, loads) == ("0", "0"), kernel
    return {kernel: int(used) for kernel, _, _, used in found}


@pytest.mark.parametrize("gpu", GPUS)
def test_stages_compile_without_spills(gpu, tmp_path):
    kernels = {}
    for name, used in registers("stages", gpu, tmp_path).items():
        if kind := re.search(r"StageKindE(\d).*(Half|BFloat)ELb([01])E", name):  # the last: means over windows
            kernels[KINDS[int(kind[1])], kind[2], kind[3]] = used
    for kind in KINDS:
        one, windows = (max(kernels[kind, number, of] for number in ("Half", "BFloat")) for of in "01")
        print(f"{gpu}, {kind}: {one} registers, {windows} over windows")
    assert len(kernels) == 4 * len(KINDS)
    assert all(used <= REGISTERS[kind] for (kind, *_), used in kernels.items()), kernels


@pytest.mark.parametrize("gpu", GPUS)
def test_the_affinity_compiles_without_spills(gpu, tmp_path):
    used = registers("affinity", gpu, tmp_path)
    for kernel, most in AFFINITY.items():
        assert [count for name, count in used.items() if kernel in name and count <= most], used
    assert len(used) == len(AFFINITY)
