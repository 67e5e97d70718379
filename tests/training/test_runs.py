"""A run's folder: what it holds, and that a killed run ends as an uninterrupted one."""

import csv
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning", reason="needs pip install 'famkern[training]'")

from safetensors.torch import save_file
from typer.testing import CliRunner

import famkern
from famkern import cli, images, models
from famkern.training import data, distillation, evaluation, recipe, run
from famkern.training.task import Task

# A process that is killed when it draws the samples of step 13, counted from 0.
KILLED = """
import os, signal, sys
from famkern.training import data

def draw(self, key, _draw=data.HazePairs.__getitem__):
    if key.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return _draw(self, key)

data.HazePairs.__getitem__ = draw
from famkern.cli import app
app(sys.argv[1:])
"""


def famkern_train(*arguments):
    return CliRunner().invoke(cli.app, ["train", "student", *map(str, arguments)])


def small(photos, **changes):
    return replace(
        recipe.STUDENT,
        folders=(recipe.Folder("photos", str(photos)),),
        groups=2,
        blocks=1,
        steps=6,
        phases=(data.Phase(1.0, 16, 2),),
        **changes,
    )


def start(photos, folder, pairs=None, session=None, **changes):
    """Run a small recipe; its task."""
    found = evaluation.find_pairs(pairs) if pairs else []
    task = distillation.Distillation(small(photos, **changes), found)
    run.train(task, run.Session(folder, device="cpu", threads=1, **session or {}))
    return task


def rows(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def checkpoint(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def same(a, b):
    """Whether two nests of dictionaries and lists hold the same bits."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, photos, pairs):
    torch.manual_seed(5)
    save_file(models.Teacher().state_dict(), tmp_path / "teacher.safetensors")
    what = f"--photos {photos} --groups 1 --blocks 1 --steps 20 --phase 16x2@0.7 --phase 24x2@1 --seed 3 --loss charbonnier"
    what += f" --teacher {tmp_path / 'teacher.safetensors'} --fam-scale rms"
    how = f"--device cpu --threads 1 --val {pairs} --val-every 4 --checkpoint-every 5"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert famkern_train("-o", whole, *what.split(), *how.split()).exit_code == 0

    command = [sys.executable, "-c", KILLED, "train", "student", "-o", killed, *what.split(), *how.split()]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert checkpoint(killed)["global_step"] == 10
    assert [row["step"] for row in rows(killed)] == ["4", "5", "8", "10", "12"]

    result = famkern_train("-o", killed, "--resume", *how.split())
    assert result.exit_code == 0, result.output
    assert (killed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    a, b = checkpoint(killed), checkpoint(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step"):
        assert same(a[part], b[part]), part
    assert rows(killed) == rows(whole)
    assert [row["step"] for row in rows(whole)] == ["4", "5", "8", "10", "12", "15", "16", "20"]
    assert [bool(row["psnr"]) for row in rows(whole)] == [step % 4 == 0 for step in (4, 5, 8, 10, 12, 15, 16, 20)]


def test_what_a_run_leaves(tmp_path, photos, pairs):
    start(photos, tmp_path / "run", pairs, {"log_every": 4, "checkpoint_every": 100})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "curves.png",
        "last.ckpt",
        "log.csv",
        "recipe.json",
        "samples.png",
        "student.safetensors",
        "tensorboard",
    ]
    assert [row["step"] for row in rows(tmp_path / "run")] == ["4", "6"], "the last step is always logged"
    assert checkpoint(tmp_path / "run")["global_step"] == 6
    weights = tmp_path / "run/student.safetensors"
    assert models.load(weights).groups == 2
    assert famkern.dehaze(torch.rand(3, 20, 30), model=weights).shape == (3, 20, 30)


def test_rows_are_means_since_the_row_before(tmp_path, photos):
    start(photos, tmp_path / "a", session={"log_every": 1})
    start(photos, tmp_path / "b", session={"log_every": 4})
    each = [float(row["loss"]) for row in rows(tmp_path / "a")]
    found = [float(row["loss"]) for row in rows(tmp_path / "b")]
    assert found == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 2], rel=1e-6)


def test_the_average_is_its_definition():
    torch.manual_seed(0)
    network, task = torch.nn.Linear(3, 2), Task.__new__(Task)
    torch.nn.Module.__init__(task)
    task.recipe = replace(recipe.STUDENT, average=0.6)
    task.average_of(network)
    wanted = None
    for step in range(12):
        with torch.no_grad():
            network.weight.copy_(torch.rand(2, 3))
        task.average.update_parameters(task.trained)
        decay = min(0.6, (1 + step) / (10 + step)) if step else 0.0
        now = network.weight.detach().double()
        wanted = now if wanted is None else decay * wanted + (1 - decay) * now
    torch.testing.assert_close(task.averaged.weight.double(), wanted, rtol=1e-6, atol=0)


def test_without_an_average_the_weights_themselves_are_exported(tmp_path, photos):
    task = start(photos, tmp_path / "run", average=0.0)
    exported = models.load(tmp_path / "run/student.safetensors").state_dict()
    assert same(dict(exported), dict(task.student.state_dict()))
    task = start(photos, tmp_path / "averaged")
    exported = models.load(tmp_path / "averaged/student.safetensors").state_dict()
    assert same(dict(exported), dict(task.averaged.state_dict()))
    assert not torch.equal(exported["pre.0.weight"], task.student.pre[0].weight)


def test_the_gradient_is_clipped_and_the_rate_is_the_recipes(tmp_path, photos):
    """One step of Adam moves each weight by the rate at most, and by less where the gradient is far below 1e-8."""
    optimiser = recipe.Optimiser(lr=1e-3, warmup=0, weight_decay=0.0, clip=1e-12)
    recipe_ = replace(small(photos, optimiser=optimiser, average=0.0), steps=1)
    task = distillation.Distillation(recipe_)
    before = [parameter.detach().clone() for parameter in task.student.parameters()]
    run.train(task, run.Session(tmp_path / "run", device="cpu"))
    moved = max(float((a - b.detach()).abs().max()) for a, b in zip(before, task.student.parameters(), strict=True))
    assert 0 < moved < 1e-6


def test_ended_runs_and_wrong_folders(tmp_path, photos):
    folder = tmp_path / "run"
    start(photos, folder)
    weights = (folder / "student.safetensors").read_bytes()
    with pytest.raises(run.RunError, match="holds a run"):
        start(photos, folder)
    clip = replace(recipe.STUDENT.optimiser, clip=0.25)
    with pytest.raises(run.RunError, match=r"optimiser\.clip is 0\.25, not 0\.5"):
        start(photos, folder, session={"resume": True}, optimiser=clip)
    with pytest.raises(run.RunError, match="either resumed or overwritten"):
        start(photos, folder, session={"resume": True, "overwrite": True})
    with pytest.raises(run.RunError, match="no run to resume"):
        start(photos, tmp_path / "other", session={"resume": True})
    start(photos, folder, session={"resume": True})
    assert (folder / "student.safetensors").read_bytes() == weights, "a run that has ended stays as it is"
    assert [row["step"] for row in rows(folder)] == ["6"]
    start(photos, folder, session={"overwrite": True}, seed=1)
    assert (folder / "student.safetensors").read_bytes() != weights
    assert [row["step"] for row in rows(folder)] == ["6"]


def test_ctrl_c_leaves_the_last_checkpoint(tmp_path, photos, monkeypatch):
    def draw(self, key, _draw=data.HazePairs.__getitem__):
        if key.step == 3:
            raise KeyboardInterrupt
        return _draw(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(data.HazePairs, "__getitem__", draw)
        result = famkern_train("-o", tmp_path / "run", "--photos", photos, "--groups", 1, "--blocks", 1, "--steps", 6,
                               "--crop", 16, "--batch", 2, "--checkpoint-every", 2, "--device", "cpu")  # fmt: skip
    assert result.exit_code == 130
    assert "interrupted; go on from the last checkpoint with --resume" in result.output
    assert checkpoint(tmp_path / "run")["global_step"] == 2
    assert famkern_train("-o", tmp_path / "run", "--resume", "--device", "cpu").exit_code == 0
    assert checkpoint(tmp_path / "run")["global_step"] == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, photos, damage):
    how = {"checkpoint_every": 2}
    start(photos, tmp_path / "whole", session=how)
    start(photos, tmp_path / "run", session=how)
    path = tmp_path / "run/last.ckpt"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    told = []
    start(photos, tmp_path / "run", session=how | {"resume": True, "report": told.append})
    assert any("last.ckpt: this checkpoint is damaged; going on from" in line for line in told) == (damage != "missing")
    assert any(line.startswith("from step 4 to 6") for line in told)
    assert same(checkpoint(tmp_path / "run")["state_dict"], checkpoint(tmp_path / "whole")["state_dict"])
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    for name in ("last.ckpt", "before.ckpt"):
        (tmp_path / "run" / name).write_bytes(b"")
    with pytest.raises(run.RunError, match="no checkpoint that is not damaged; begin again with --overwrite"):
        start(photos, tmp_path / "run", session=how | {"resume": True})


def test_a_full_disk_loses_no_checkpoint(tmp_path, photos, monkeypatch):
    save, count = torch.save, []

    def full(content, file):
        count.append(file)
        if len(count) == 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(images.ImageError, match=r"last\.ckpt: cannot be written \(No space left"):
        start(photos, tmp_path / "run", session={"checkpoint_every": 2})
    monkeypatch.undo()
    assert checkpoint(tmp_path / "run")["global_step"] == 4
    assert torch.load(tmp_path / "run/before.ckpt", weights_only=True)["global_step"] == 2
    assert not list((tmp_path / "run").glob(".*"))
    start(photos, tmp_path / "run", session={"checkpoint_every": 2, "resume": True})
    assert checkpoint(tmp_path / "run")["global_step"] == 6


@pytest.mark.parametrize("resume", [False, True])
def test_more_devices_than_there_are_and_a_folder_that_is_none_are_refused_at_once(tmp_path, photos, resume):
    with pytest.raises(run.RunError, match=r"devices is 6400, but this machine has \d+ CPU cores"):
        start(photos, tmp_path / "run", session={"devices": 6400, "resume": resume})
    (tmp_path / "file").touch()
    with pytest.raises(run.RunError, match="is a file"):
        start(photos, tmp_path / "file/run", session={"resume": resume})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ([], "nothing to train on"),
        (["--photos", "missing"], "missing: no images"),
        (["--pairs", "missing"], "missing: a folder that holds hazy/ and clear/ expected"),
        (["--photos", "PHOTOS", "--val", "missing"], "missing: a folder that holds hazy/ and clear/ expected"),
        (["--photos", "PHOTOS=0"], "a weight above 0 expected"),
        (["--photos", "PHOTOS", "--teacher", "missing"], "missing: no such checkpoint"),
        (["--photos", "PHOTOS", "--teacher", "student"], "student: a teacher expected, not a student"),
        (
            ["--photos", "PHOTOS", "--init", "student", "--blocks", "1"],
            "student: not weights of a student of 16 channels, 3 groups, 1 blocks",
        ),
        (["--photos", "PHOTOS", "--phase", "96"], "SIZExBATCH@UNTIL expected"),
        (["--photos", "PHOTOS", "--device", "tpu"], "'tpu'"),
        (["--photos", "PHOTOS", "--device", "meta"], "finds none here to train on"),
        (["--photos", "PHOTOS", "--threads", "0"], "a whole number from 1"),
        (["--resume"], "no run to resume"),
    ],
)
def test_wrong_usage_gives_2_and_leaves_nothing(tmp_path, photos, wrong, line):
    arguments = [str(argument).replace("PHOTOS", str(photos)) for argument in wrong]
    result = famkern_train("-o", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert line in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_out_of_time_goes_on_later(tmp_path, photos):
    whole = start(photos, tmp_path / "whole")
    lines = []
    start(photos, tmp_path / "parts", session={"minutes": 1e-9, "report": lines.append})
    assert any("stopped after" in line and "step 1;" in line for line in lines)
    assert not (tmp_path / "parts/curves.png").exists()
    parts = start(photos, tmp_path / "parts", session={"resume": True})
    assert (tmp_path / "parts/curves.png").exists()
    for mine, theirs in zip(parts.averaged.parameters(), whole.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shape", ["16,32", "16:1", "16,32:1,1,1:other", "a,b:1,1,1", "16,32:1,1", "16,20:1,1,1"])
def test_a_shape_that_is_none(tmp_path, photos, shape):
    result = famkern_train("-o", tmp_path / "run", "--photos", photos, "--u", shape, "--steps", 2)
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_weights_of_another_shape_are_refused(tmp_path, photos):
    save_file(models.UStudent((16, 32), (1, 1, 1)).state_dict(), tmp_path / "u.safetensors")
    result = famkern_train(
        "-o", tmp_path / "run", "--photos", photos, "--init", tmp_path / "u.safetensors", "--steps", 2
    )
    assert result.exit_code == 2
    assert "not weights of a student of 16 channels" in " ".join(result.output.split())


def test_compiled_operators_are_not_compiled_again(tmp_path, photos):
    result = famkern_train(
        *("-o", tmp_path / "run", "--photos", photos, "--steps", 1, "--crop", 16, "--batch", 1),
        *("--device", "cpu", "--threads", 1, "--compile"),
    )
    assert result.exit_code == 1
    assert "torch.compile is for PyTorch's operators" in " ".join(result.output.split())


def test_a_u_shaped_student_trains_and_loads(tmp_path, photos):
    result = famkern_train(
        *("-o", tmp_path / "run", "--photos", photos, "--u", "16,32:1,1,1", "--steps", 2, "--crop", 16, "--batch", 1),
        *("--device", "cpu", "--threads", 1),
    )
    assert result.exit_code == 0, result.output
    network = models.load(tmp_path / "run/student.safetensors")
    assert isinstance(network, models.UStudent)
    assert (network.widths, network.blocks) == ((16, 32), (1, 1, 1))
    assert recipe.read(tmp_path / "run/recipe.json", recipe.StudentRecipe).u == recipe.UShape((16, 32), (1, 1, 1))


def test_bad_files_are_named_together_before_the_first_step_and_before_there_is_a_run(tmp_path, photos, pairs):
    for path in (photos / "1.png", photos / "3.png", pairs / "hazy/1_1.png"):
        path.write_bytes(path.read_bytes()[:300])
    result = famkern_train("-o", tmp_path / "run", "--photos", photos, "--groups", "1", "--blocks", "1", "--val", pairs)
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if ".png: " in line]
    assert len(lines) == 3
    assert result.output.splitlines()[-1] == "famkern: 3 of 10 files are not fit to train on; mend or remove them"
    assert not (tmp_path / "run").exists()
