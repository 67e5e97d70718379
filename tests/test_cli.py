"""The `famkern` command, as a person or a script meets it."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from famkern import cli
from famkern.cli.info import info

FAMKERN = [sys.executable, "-m", "famkern"]


def famkern(*arguments, cwd=None):
    result = subprocess.run([*FAMKERN, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)
    result.stderr = without_notice(result.stderr)
    return result


def without_notice(stderr):
    """The lines that do not depend on whether famkern was built with its kernels."""
    return "".join(line for line in stderr.splitlines(True) if "without compiled CPU kernels" not in line)


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "hazy.png")
    return tmp_path / "hazy.png"


def test_dehaze_is_quiet_in_a_pipe(picture, tmp_path):
    result = famkern("dehaze", picture, "-o", tmp_path / "clear.png")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert Image.open(tmp_path / "clear.png").size == (40, 30)


def test_every_option_is_taken(picture, tmp_path):
    options = "--model student --strength 0.5 --device cpu --dtype float16 --memory 512MiB --threads 1 --overwrite"
    options += " --recursive --format jpg --quality 80 --suffix _x --compare --max-pixels 5000"
    result = famkern("dehaze", picture, "-o", tmp_path / "out", *options.split())
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "out")) == ["hazy_x-compare.jpg", "hazy_x.jpg"]


def test_the_window_is_taken_and_a_wrong_one_refused(tmp_path):
    hazy = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    hazy[:, :60] //= 4
    Image.fromarray(hazy).save(tmp_path / "a.png")
    for window in ("0", "32"):
        assert famkern("dehaze", tmp_path / "a.png", "-o", tmp_path / window, "--window", window).returncode == 0
    whole, parts = (np.asarray(Image.open(tmp_path / window / "a.png")) for window in ("0", "32"))
    assert (whole != parts).any()
    run = famkern("dehaze", tmp_path / "a.png", "-o", tmp_path / "c", "--window", 40)
    assert run.returncode == 2
    assert "window is a multiple of 16 pixels" in run.stderr


def test_a_failed_file_gives_1_and_the_others_are_done(picture, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = famkern("dehaze", "missing.png", tmp_path / "bad.jpg", picture, "-o", tmp_path / "out")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0] == "famkern: missing.png: no such file or folder"
    assert lines[1].startswith(f"famkern: {tmp_path}/bad.jpg: ")
    assert os.listdir(tmp_path / "out") == ["hazy.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--strength", "2"],
        ["--memory", "lots"],
        ["--device", "tpu"],
        ["--dtype", "int8"],
        ["--threads", "0"],
        ["--format", "gif"],
        ["--quality", "0"],
        ["--model", "no-such-model"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_gives_2_and_writes_nothing(picture, tmp_path, wrong):
    output = ["-o", tmp_path / "out"] if wrong else []
    result = famkern("dehaze", picture, *output, *wrong)
    assert result.returncode == 2
    assert result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_checkpoint_gives_1_and_one_line(picture, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    result = famkern("dehaze", picture, "-o", tmp_path / "out", "--model", tmp_path / "other.pth")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "tensors of a student" in result.stderr


def test_weights_of_a_teacher_get_one_line(picture, tmp_path):
    from famkern.models import Teacher

    torch.save(Teacher().state_dict(), tmp_path / "teacher.pth")
    result = famkern("dehaze", picture, "-o", tmp_path / "out", "--model", tmp_path / "teacher.pth")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "not a Teacher" in result.stderr


def test_an_unknown_instruction_set_gets_one_line(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("FAMKERN_CPU_ISA", "bogus")
    if without_notice(famkern("info").stdout).count("not built"):
        pytest.skip("needs compiled kernels")
    for arguments in (["info"], ["dehaze", picture, "-o", tmp_path / "out"]):
        result = famkern(*arguments)
        assert result.returncode in (1, 2)
        assert len(result.stderr.splitlines()) == 1
        assert "FAMKERN_CPU_ISA=bogus" in result.stderr


def test_being_terminated_leaves_nothing_half_written(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    command = [*FAMKERN, "dehaze", str(tmp_path / "large.png"), "-o", str(tmp_path / "out"), "--strength", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode in (0, 143)
    assert os.listdir(tmp_path / "out") in ([], ["large.png"])


def test_a_spill_is_announced(picture, tmp_path):
    Image.new("RGB", (1500, 1000)).save(tmp_path / "large.png")
    result = famkern("dehaze", tmp_path / "large.png", "-o", tmp_path / "out", "--memory", "128MiB")
    assert result.returncode == 0
    assert re.search(r"1500 x 1000 pixels do not fit the memory bound: .* go to a file in", result.stderr)


def test_a_terminal_sees_progress_and_a_summary(picture, tmp_path):
    controller, terminal = pty.openpty()
    command = [*FAMKERN, "dehaze", str(picture), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 1 << 16):
            shown += chunk
    except OSError:  # how Linux says that the other side has gone
        pass
    assert process.wait() == 0
    assert b"hazy.png" in shown
    assert b"1 done" in shown


def test_an_interrupt_keeps_what_is_done(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("RGB", (6000, 4000)).save(tmp_path / "b.png")
    command = [*FAMKERN, "dehaze", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "out")]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # inherited: what runs in the background ignores it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    while not (tmp_path / "out/a.png").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert without_notice(stderr).strip() == "famkern: interrupted; 1 of 2 pictures are done and kept"
    assert os.listdir(tmp_path / "out") == ["a.png"]


def test_info_tells_versions_kernels_and_weights():
    result = famkern("info")
    assert result.returncode == 0
    for word in ("famkern", "PyTorch", "CPU kernels", "CUDA", "student", "sha256"):
        assert word in result.stdout


def test_info_says_what_each_gpu_runs_and_why(monkeypatch, capsys):
    monkeypatch.setenv("FAMKERN_GPU", "0")
    monkeypatch.delenv("FAMKERN_REFERENCE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"GPU number {index}")
    info()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cuda:")]
    why = "PyTorch's operators: FAMKERN_GPU=0 asks for it"
    assert lines == [f"cuda:{index}       GPU number {index}, {why}" for index in range(2)]


def test_info_refuses_a_setting_that_is_none_in_a_line(monkeypatch, capsys):
    monkeypatch.setenv("FAMKERN_GPU", "yes")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(cli.typer.Exit):
        info()
    assert "FAMKERN_GPU=yes: 1 to use" in capsys.readouterr().err


def test_evaluate_prints_figures_beside_those_of_the_input(tmp_path):
    pytest.importorskip("torchmetrics", reason="needs torchmetrics (pip install 'famkern[training]')")
    rng = np.random.default_rng(0)
    for folder, name in (("hazy", "1_1"), ("hazy", "1_2"), ("clear", "1")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / folder / f"{name}.png")
    result = famkern("evaluate", tmp_path, "--csv", tmp_path / "figures.csv")
    assert result.returncode == 0, result.stderr
    assert re.search(r"hazy input +\d+\.\d\d dB +-?\d\.\d{4}", result.stdout)
    assert re.search(r"student +\d+\.\d\d dB +-?\d\.\d{4}", result.stdout)
    assert "2 pairs" in result.stdout
    assert len((tmp_path / "figures.csv").read_text().splitlines()) == 3


def test_evaluate_says_what_a_folder_lacks(tmp_path):
    result = famkern("evaluate", tmp_path)
    assert result.returncode == 1
    assert "holds hazy/ and clear/" in result.stderr
    assert len(result.stderr.splitlines()) == 1
