"""The `famkern` command, as a person or a script meets it."""

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from famkern import cli, dehaze, images, models
from famkern.cli.info import info
from famkern.models import Student

sys.path.insert(0, str(Path(__file__).parent / "images"))
from corpus import dng

FAMKERN = [sys.executable, "-m", "famkern"]


def famkern(*arguments, cwd=None, **settings):
    command = [*FAMKERN, *map(str, arguments)]
    settings = {"text": True} | settings
    result = subprocess.run(command, capture_output=True, cwd=cwd, check=False, **settings)
    if settings["text"]:
        result.stderr = without_notice(result.stderr)
    return result


@pytest.fixture
def command(capsysbinary, monkeypatch):
    """The same in this process, for what does not depend on one of its own; with the content of standard input."""

    def run(*arguments, stdin=b"", cwd=None):
        if cwd is not None:
            monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            cli.app([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, out, without_notice(err.decode()))

    return run


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
    options += " --recursive --format jpg --quality 80 --suffix _x --compare --max-pixels 5000 --keep-time --quiet"
    Image.new("L", (40, 30), 200).save(tmp_path / "mask.png")
    result = famkern("dehaze", picture, "-o", tmp_path / "out", *options.split(), "--mask", tmp_path / "mask.png")
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


def test_the_scale_is_taken_and_a_wrong_one_refused(tmp_path, command):
    hazy = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    Image.fromarray(hazy).save(tmp_path / "a.png")
    expected = dehaze(hazy, scale=2)
    for scale in ("2", "auto"):  # 900 / 400
        result = command("dehaze", tmp_path / "a.png", "-o", tmp_path / scale, "--scale", scale)
        assert (result.returncode, result.stderr) == (0, "")
        assert np.array_equal(np.asarray(Image.open(tmp_path / scale / "a.png")), expected)
    for wrong in ("0", "9", "1.5", "-2", "", "Auto"):
        result = command("dehaze", tmp_path / "a.png", "-o", tmp_path / "c", f"--scale={wrong}")
        assert result.returncode == 2
        assert 'scale is a whole number from 1 to 8, or "auto", not' in result.stderr
    assert not (tmp_path / "c").exists()


def test_auto_for_weights_that_do_not_say_their_side_is_1_and_told(picture, tmp_path, command):
    save_file(Student(16, 1, 1).state_dict(), tmp_path / "weights.safetensors")
    at = ("--model", tmp_path / "weights.safetensors", "--scale", "auto")
    result = command("dehaze", picture, "-o", tmp_path / "out", *at)
    assert result.returncode == 0
    assert "scale is 1 for all pictures: the weights do not say" in result.stderr


def test_the_map_of_transmission_is_told_in_json_and_needs_an_effect(picture, tmp_path, command):
    result = command("dehaze", picture, "-o", tmp_path / "out", "--transmission", "--json")
    assert json.loads(result.stdout)["transmission"] == str(tmp_path / "out/hazy-transmission.png")
    assert (tmp_path / "out/hazy-transmission.png").exists()
    for wrong in (["-o", tmp_path / "no", "--strength", "0"], ["-o", "-"]):
        result = command("dehaze", picture, "--transmission", *wrong)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert not (tmp_path / "no").exists()


def test_a_failed_file_gives_1_and_the_others_are_done(picture, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = famkern("dehaze", "missing.png", tmp_path / "bad.jpg", picture, "-o", tmp_path / "out")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0] == "famkern: missing.png: no such file or folder"
    assert lines[1].startswith(f"famkern: {tmp_path}/bad.jpg: ")
    assert os.listdir(tmp_path / "out") == ["hazy.png"]


def test_what_is_skipped_is_told_and_there_already_is_no_news(tmp_path, command):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for name in ("b.gif", "c.psd", "._a.png", "notes.txt"):
        (tmp_path / name).touch()
    told = "famkern: skipped: 2 of a format that is not read (1 .gif, 1 .psd)\n"
    for _ in range(2):
        result = command("dehaze", tmp_path, "-o", tmp_path / "out")
        assert (result.returncode, result.stderr, result.stdout) == (0, told, b"")
    assert os.listdir(tmp_path / "out") == ["a.png"]
    (line,) = command("dehaze", ".", "-o", tmp_path / "out", cwd=tmp_path / "out").stderr.splitlines()
    assert "is itself" in line


def test_the_output_folder_may_lie_above_the_inputs(tmp_path, command):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos/a.png")
    for inputs in ("photos", "photos/*.png"):
        result = command("dehaze", inputs, "-o", ".", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        (tmp_path / "a.png").unlink()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(picture, tmp_path, command):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "b.gif").touch()
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    before = sorted(os.listdir(tmp_path))
    result = command("dehaze", ".", "-o", "out", "--dry-run", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.decode().splitlines() == [
        "b.gif: skipped, of a format that is not read",
        "clear.png -> out/clear.png",
        "hazy.png -> out/hazy.png",
    ]
    assert result.stderr.startswith("famkern: bad.jpg: is not a JPEG")
    result = command("dehaze", "clear.png", "-o", "out", "--format", "jpg", "--dry-run", cwd=tmp_path)
    assert result.returncode == 1
    assert "JPEG holds no transparency" in result.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_json_is_a_line_a_file(picture, tmp_path, command):
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/\xffline\n.png")
    Image.new("RGB", (9, 9)).save(strange)
    (tmp_path / "bad.jpg").touch()
    (tmp_path / "c.gif").touch()
    result = command("dehaze", tmp_path, "-o", tmp_path / "out", "--json")
    told = {os.path.basename(line["source"]): line for line in map(json.loads, result.stdout.decode().splitlines())}
    assert {name: line["status"] for name, line in told.items()} == {
        "hazy.png": "done", os.path.basename(strange): "done", "bad.jpg": "failed", "c.gif": "skipped",
    }  # fmt: skip
    assert told["hazy.png"]["target"] == str(tmp_path / "out/hazy.png")
    assert "is empty" in told["bad.jpg"]["reason"]
    assert os.path.exists(told[os.path.basename(strange)]["target"])
    again = command("dehaze", picture, "-o", tmp_path / "out", "--json", "--dry-run")
    assert json.loads(again.stdout)["reason"] == "there already"


def test_a_report_gets_a_line_a_file_of_every_run(picture, tmp_path, command):
    (tmp_path / "bad.jpg").touch()
    arguments = ("dehaze", picture, tmp_path / "bad.jpg", "-o", tmp_path / "out", "--report", tmp_path / "run.jsonl")
    assert command(*arguments).returncode == 1
    assert command(*arguments).returncode == 1
    done, bad, there, again = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    assert (done["status"], bad["status"], there["status"]) == ("done", "failed", "skipped")
    assert bad == again
    with Image.open(picture) as image:
        assert (done["width"], done["height"]) == image.size
    assert set(done["seconds"]) == {"read", "dehaze", "write"}
    assert done["megapixels_per_second"] > 0
    assert done["peak_bytes"] > 2**24


@pytest.mark.parametrize("wrong", [("--report", "no/folder/run.jsonl"), ("--timeout", "0"), ("--timeout", "nan")])
def test_a_report_or_time_limit_that_cannot_be(picture, tmp_path, command, wrong):
    result = command("dehaze", picture, "-o", tmp_path / "out", *wrong, cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_quiet_tells_failures_only(picture, tmp_path, command):
    (tmp_path / "bad.jpg").touch()
    (tmp_path / "c.gif").touch()
    result = command("dehaze", tmp_path, "-o", tmp_path / "out", "--quiet")
    assert (result.returncode, result.stdout) == (1, b"")
    (line,) = result.stderr.splitlines()
    assert "bad.jpg" in line


def test_names_of_any_bytes_are_told_with_escapes(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\x1b[31m\n\xff.png")
    open(name, "w").close()
    for environment in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        result = famkern("dehaze", name, "-o", tmp_path / "out", env=os.environ | environment)
        assert result.returncode == 1
        assert result.stderr == f"famkern: {tmp_path}/a\\x1b[31m\\n\\xff.png: is empty; get another copy of the file\n"


def test_strength_goes_beyond_the_network_s_result(picture, tmp_path, command):
    assert command("dehaze", picture, "-o", tmp_path / "a.png", "--strength", "1.7").returncode == 0
    hazy, result = (np.asarray(Image.open(path)) for path in (picture, tmp_path / "a.png"))
    assert np.array_equal(result, dehaze(hazy, strength=1.7))
    assert not np.array_equal(result, dehaze(hazy))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell):
    result = famkern(env=os.environ | {"_FAMKERN_COMPLETE": f"source_{shell}"})
    assert (result.returncode, result.stderr) == (0, "")
    assert f"_FAMKERN_COMPLETE=complete_{shell}" in result.stdout


def test_commands_are_completed():
    words = {"COMP_WORDS": "famkern de", "COMP_CWORD": "1", "_FAMKERN_COMPLETE": "complete_bash"}
    assert famkern(env=os.environ | words).stdout.split() == ["dehaze"]


class TestStreams:
    def test_from_and_to(self, picture, tmp_path):
        expected = famkern("dehaze", picture, "-o", "-", text=False).stdout
        result = famkern("dehaze", "-", "-o", tmp_path / "clear.png", input=picture.read_bytes(), text=False)
        assert (result.returncode, result.stdout) == (0, b"")
        assert (tmp_path / "clear.png").read_bytes() == expected

    def test_the_format_is_the_input_s_unless_it_is_given(self, picture, command):
        stdin = picture.read_bytes()
        png = command("dehaze", "-", "-o", "-", "--strength", "0", stdin=stdin)
        jpeg = command("dehaze", "-", "-o", "-", "--strength", "0", "--format", "jpg", stdin=stdin)
        assert (png.returncode, jpeg.returncode, png.stderr, jpeg.stderr) == (0, 0, "", "")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.stdout))), np.asarray(Image.open(picture)))
        assert Image.open(io.BytesIO(jpeg.stdout)).format == "JPEG"

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
    def test_damage_is_one_line_that_names_the_stream(self, command, content):
        result = command("dehaze", "-", "-o", "-", stdin=content)
        assert (result.returncode, result.stdout) == (1, b"")
        assert result.stderr.startswith("famkern: standard input: ")
        assert result.stderr.count("\n") == 1

    def test_no_other_name_than_theirs_is_told(self, picture, tmp_path, command):
        stdin = picture.read_bytes()
        suffix = command("dehaze", "-", "-o", "-", "--suffix", "-clear", stdin=stdin)
        json_line = command("dehaze", "-", "-o", tmp_path / "a.png", "--json", stdin=stdin)
        planned = command("dehaze", "-", "-o", tmp_path / "b.png", "--dry-run", stdin=stdin)
        assert suffix.returncode == 2
        assert suffix.stderr.startswith("famkern: standard output: --suffix is for ")
        assert json.loads(json_line.stdout)["source"] == "standard input"
        assert planned.stdout.decode() == f"standard input -> {tmp_path}/b.png\n"

    def test_a_raw_is_known_by_its_content(self, command):
        pytest.importorskip("rawpy", reason="needs rawpy (pip install 'famkern[formats]')")
        result = command("dehaze", "-", "-o", "-", stdin=dng(np.full((64, 96), 20_000, np.uint16)))
        assert (result.returncode, result.stderr) == (0, "")
        assert Image.open(io.BytesIO(result.stdout)).format == "PNG"

    def test_wrong_usage(self, picture, tmp_path, command):
        for arguments in (("-", picture, "-o", tmp_path), (tmp_path, "-o", "-"), (picture, "-o", "-", "--json")):
            result = command("dehaze", *arguments)
            assert (result.returncode, result.stdout) == (2, b"")
            assert result.stderr.startswith("famkern: - (standard ")


@pytest.mark.parametrize("moment", ["batch.plan_jobs", "dehazer.Dehazer.__init__", "batch.dehaze_files"])
def test_an_interrupt_before_the_first_picture_is_one_line(picture, tmp_path, moment):
    program = f"""if True:
        import os, signal, sys, time
        from famkern import batch, cli, dehazer
        def interrupted(*args, **kwargs):
            signal.raise_signal(signal.SIGINT)
        sys.argv = ["famkern", "dehaze", {str(picture)!r}, "-o", {str(tmp_path / "out")!r}]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        {moment} = interrupted
        cli.main()
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 130
    assert without_notice(result.stderr) == "famkern: interrupted\n"


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--strength", "2.1"],
        ["--mask", "no-such-mask.png"],
        ["--mask", "hazy.png", "--dry-run"],  # which has colours
        ["--engine", "dask"],
        ["--workers", "2"],
        ["--address", "auto"],
        ["--engine", "ray", "--device", "cuda:1"],
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
    result = famkern("dehaze", picture, *output, *wrong, cwd=tmp_path)
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
    for name in models.available():
        network, after = models.load(name), result.stdout.split(f" {models.zoo.summary(name)}\n")[1].splitlines()
        if getattr(network, "scale_side", None):
            assert f"--scale auto brings the longer side near {network.scale_side} pixels" in after[0]
        if getattr(network, "window", None):
            assert f"channel attention sees windows of {network.window} pixels" in after[0]


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
    result = famkern("evaluate", tmp_path, "--csv", tmp_path / "new/figures.csv")
    assert result.returncode == 0, result.stderr
    assert re.search(r"hazy input +\d+\.\d\d dB +-?\d\.\d{4}", result.stdout)
    assert re.search(r"student, scale 1 +\d+\.\d\d dB +-?\d\.\d{4}", result.stdout)
    assert "2 pairs" in result.stdout
    assert len((tmp_path / "new/figures.csv").read_text().splitlines()) == 3


def test_evaluate_takes_the_scale(tmp_path, command):
    pytest.importorskip("torchmetrics", reason="needs torchmetrics (pip install 'famkern[training]')")
    rng, figures = np.random.default_rng(0), {}
    for folder, name in (("hazy", "1_1"), ("clear", "1")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 700, 3), dtype=np.uint8)).save(tmp_path / folder / f"{name}.png")
    for scale in ("1", "2", "auto"):
        result = command("evaluate", tmp_path, "--scale", scale)
        assert result.returncode == 0, result.stderr
        figures[scale] = re.search(rf"student, scale {scale} +(-?\d+\.\d\d dB +-?\d\.\d{{4}})", result.stdout.decode())[
            1
        ]
    assert figures["2"] == figures["auto"] != figures["1"]
    result = command("evaluate", tmp_path, "--scale", "9")
    assert result.returncode == 2
    assert "scale is a whole number from 1 to 8" in result.stderr
    result = command("evaluate", tmp_path, "--model", "teacher", "--scale", "2")
    assert result.returncode == 2
    assert "a teacher is evaluated without" in result.stderr


def test_evaluate_says_what_a_folder_lacks(tmp_path):
    result = famkern("evaluate", tmp_path)
    assert result.returncode == 1
    assert "holds hazy/ and clear/" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_figures_are_shown_even_if_their_file_cannot_be_written(command, tmp_path, picture, monkeypatch):
    pytest.importorskip("torchmetrics", reason="needs torchmetrics (pip install 'famkern[training]')")

    def full(path, scores):
        raise images.ImageError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("famkern.training.evaluation.write_csv", full)
    for folder in ("hazy", "clear"):
        (tmp_path / folder).mkdir()
        shutil.copy(picture, tmp_path / folder / "1.png")
    result = command("evaluate", tmp_path, "--csv", tmp_path / "a.csv")
    assert result.returncode == 1
    assert b"1 pairs" in result.stdout
    assert result.stderr == f"famkern: {tmp_path}/a.csv: cannot be written (No space left on device)\n"


def test_what_pillow_warns_of_is_not_shown(command, tmp_path, picture):
    junk = b"Exif\0\0II*\0\x08\0\0\0" + b"junk" * 9
    Image.open(picture).save(tmp_path / "a.jpg", exif=junk)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for source, target in (("a.jpg", "b.avif"), ("b.avif", "c.avif")):
            assert command("dehaze", tmp_path / source, "-o", tmp_path / target).returncode == 0
    assert not shown
