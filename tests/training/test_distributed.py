"""Two processes with half of each batch train as one with all of it."""

import csv
import subprocess
import sys

import pytest
import torch

pytest.importorskip("lightning", reason="needs pip install 'famkern[training]'")

from safetensors.torch import save_file

from famkern import models


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, photos, pairs):
    """In float64, where rounding is far below what a wrong scale of the loss or its gradient would change."""
    torch.manual_seed(0)
    save_file(models.Teacher().state_dict(), tmp_path / "teacher.safetensors")
    states, logs = [], []
    for count in (1, 2):
        folder = tmp_path / f"run{count}"
        options = (
            f"-o {folder} --photos {photos} --groups 1 --blocks 1 --steps 4 --crop 16 --batch 4 --precision 64-true"
        )
        options += f" --teacher {tmp_path / 'teacher.safetensors'} --fam-scale rms --checkpoint-every 3"
        options += f" --val {pairs} --val-every 2 --device cpu --devices {count} --threads 1"
        command = [sys.executable, "-m", "famkern", "train", "student", *options.split()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        states.append(torch.load(folder / "last.ckpt", weights_only=True)["state_dict"])
        with (folder / "log.csv").open(newline="") as file:
            logs.append([{k: float(v or 0) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert states[0].keys() == states[1].keys()
    for name, one in states[0].items():
        torch.testing.assert_close(states[1][name], one, rtol=1e-10, atol=1e-12)
    for one, two in zip(*logs, strict=True):
        assert two == pytest.approx(one, rel=1e-6)
