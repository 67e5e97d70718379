"""`make gpu-check`: one line where there is no GPU, and a selection of tests that is not empty."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .stage_cases import having

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments):
    command = ["make", "-s", "gpu-check", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_gpu_it_says_so_and_fails_before_it_does_anything():
    result = make()
    assert result.returncode != 0
    assert result.stdout == f"make gpu-check needs a CUDA device, and a PyTorch that sees it in {sys.executable}\n"


def test_every_kind_of_stage_is_among_what_the_sanitizers_see():
    recipe = make("-n").stdout.replace("\\\n", " ")
    (line,) = [line for line in recipe.splitlines() if "compute-sanitizer --tool" in line]
    words = shlex.split(line.split(f"{sys.executable} -m pytest")[1].split("||")[0])
    command = [sys.executable, "-m", "pytest", "--collect-only", *words]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for test in ("bands_and_runs", "do_not_meet", "test_spread", "test_maps_and_gradients"):
        assert test in found
    for stage in having("cuda"):
        for kernels in ("triton-0", "triton-48", "cuda-0", "cuda-48"):  # one mean, and windows
            assert f"bands_and_runs_leave_the_bits_alone[{kernels}-{stage}-torch.float16" in found
    assert "bfloat16" not in found
