"""The CUDA kernels compile for every GPU that they are for, within the resources they were designed for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc")
KINDS = ("head", "block", "group", "last_group", "tail")  # in the order of StageKind
# Registers of a thread at most: three blocks of 128 threads on a multiprocessor, two in a group.
REGISTERS = {"head": 168, "block": 168, "group": 255, "last_group": 168, "tail": 168}


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("gpu", ["sm_80", "sm_86", "sm_89", "sm_90a"])
def test_stages_compile_without_spills(gpu, tmp_path):
    source, out = ROOT / "csrc/cuda/stages.cu", tmp_path / "stages.cubin"
    command = [NVCC, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-arch={gpu}", "-Xptxas", "-v", "-cubin", source]
    run = subprocess.run([*command, "-o", out], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr
    found = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        run.stderr,
        re.DOTALL,
    )
    kernels = {}
    for name, stores, loads, registers in found:
        assert (stores, loads) == ("0", "0"), name
        if kind := re.search(r"StageKindE(\d).*(Half|BFloat)ELb([01])E", name):  # the last: means over windows
            kernels[KINDS[int(kind[1])], kind[2], kind[3]] = int(registers)
    assert len(kernels) == 4 * len(KINDS)
    assert all(registers <= REGISTERS[kind] for (kind, *_), registers in kernels.items()), kernels
