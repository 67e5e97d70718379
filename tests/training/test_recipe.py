"""Recipes: presets, what is given beyond them, and the file beside the run."""

from dataclasses import fields, replace

import pytest
from typer.testing import CliRunner

pytest.importorskip("lightning", reason="needs pip install 'famkern[training]'")

from famkern.cli import app
from famkern.training import recipe
from famkern.training.data import Phase

FOLDERS = (recipe.Folder("pairs", "a"), recipe.Folder("depth", "b", 0.5, "indoor", sky=True))


@pytest.mark.parametrize(
    "kept",
    [
        replace(recipe.STUDENT, folders=FOLDERS, init="x.pth", teacher="teacher", precision="64-true"),
        replace(recipe.TEACHER_PAPER, folders=FOLDERS[:1]),
    ],
)
def test_a_recipe_comes_back_from_its_file(tmp_path, kept):
    recipe.write(tmp_path / "recipe.json", kept)
    assert recipe.read(tmp_path / "recipe.json", type(kept)) == kept


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"steps": 1, "colour": 2}', '{"folders": [], "steps": 1, "phases": 3}']
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.json: not a StudentRecipe"):
        recipe.read(tmp_path / "recipe.json", recipe.StudentRecipe)


def test_the_papers_recipe(pairs):
    paper = recipe.student("paper", folders=(recipe.Folder("pairs", str(pairs)),))
    assert (paper.loss, paper.fam_weight, paper.fam_scale, paper.teacher) == ("mse", 0.25, "paper", "teacher")
    assert [phase.batch for phase in paper.phases] == [2]
    assert {paper.optimiser.rate(step, 100) for step in (0, 1, 50, 99)} == {1e-4}
    assert (paper.optimiser.clip, paper.optimiser.betas, paper.optimiser.weight_decay) == (0.1, (0.9, 0.999), 0)
    assert (paper.channels, paper.groups, paper.blocks, paper.average) == (16, 3, 6, 0)
    assert paper.steps == 200 * 2  # three pairs are an epoch of two steps


def test_the_papers_epochs_need_pairs():
    with pytest.raises(ValueError, match="give the number of steps"):
        recipe.student("paper", folders=(recipe.Folder("photos", "a"),))
    assert recipe.student("paper", folders=(recipe.Folder("photos", "a"),), steps=7).steps == 7


def test_the_rate_warms_up_and_falls():
    optimiser = recipe.Optimiser(lr=2.0, warmup=3, final=0.25)
    rates = [optimiser.rate(step, 1000) for step in range(1000)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0], rel=1e-4)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.5, rel=1e-4)


def test_what_is_given_replaces_the_preset():
    given = recipe.student(None, folders=FOLDERS, lr=0.5, crop=32, batch=None, loss="mse", teacher="none", seed=0)
    assert given == replace(
        recipe.STUDENT,
        folders=FOLDERS,
        optimiser=replace(recipe.STUDENT.optimiser, lr=0.5),
        phases=(Phase(1.0, 32, recipe.STUDENT.phases[0].batch),),
        loss="mse",
    )
    assert recipe.student(None, given) == given, "on resuming, what is not given is the run's"
    assert recipe.student("default", given, folders=FOLDERS).loss == "psnr"
    phases = recipe.teacher(None, folders=FOLDERS, phases=["96x8@0.5", "64x2@1"]).phases
    assert phases == (Phase(0.5, 96, 8), Phase(1.0, 64, 2))


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("x", recipe.Folder("depth", "x")),
        ("x=2", recipe.Folder("depth", "x", 2.0)),
        ("a=b/c=0.5,sky", recipe.Folder("depth", "a=b/c", 0.5, sky=True)),
        ("a=b,c,indoor", recipe.Folder("depth", "a=b,c", haze="indoor")),
        ("x=.5,outdoor,sky", recipe.Folder("depth", "x", 0.5, "outdoor", sky=True)),
    ],
)
def test_folders_as_texts(text, folder):
    assert recipe.Folder.parse("depth", text) == folder


def test_differences_are_named():
    ours = replace(recipe.STUDENT, folders=FOLDERS)
    theirs = replace(ours, steps=9, optimiser=replace(ours.optimiser, lr=1.0))
    assert recipe.differences(ours, ours) == []
    assert recipe.differences(ours, theirs) == ["steps is 50000, not 9", "optimiser.lr is 0.002, not 1.0"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"folders": None},
        {"steps": 0},
        {"average": 1.0},
        {"seed": -1},
        {"lr": -1.0},
        {"phases": ["96x8"]},
        {"phases": ["96x8@0.5"]},
        {"phases": ["96x8@1"], "crop": 3},
    ],
)
def test_wrong_values(wrong):
    with pytest.raises(ValueError, match=r"."):
        recipe.student(None, **{"folders": FOLDERS, **wrong})
    with pytest.raises(ValueError, match="a weight above 0"):
        recipe.Folder.parse("pairs", "x=0")


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_every_field_with_an_option_is_told_by_the_command_line(name, monkeypatch, tmp_path):
    kind = {"student": recipe.StudentRecipe, "teacher": recipe.TeacherRecipe}[name]
    told = {}

    def record(preset, base, **given):
        told.update(given, preset=preset)
        raise ValueError("that is all")

    monkeypatch.setattr(recipe, name, record)
    wanted = {"steps": 7, "loss": "mse", "lr": 0.5, "average": 0.25, "seed": 3, "precision": "64-true"}
    if name == "student":
        wanted |= {"channels": 32, "groups": 2, "blocks": 1, "u": "16,32:1,1,1", "init": "a.pth", "window": 64}
        wanted |= {"teacher": "none", "fam_weight": 0.5, "fam_scale": "rms"}
    named = {field.name for part in (kind, recipe.Optimiser) for field in fields(part) if field.metadata}
    assert named == set(wanted)
    arguments = [word for field, value in wanted.items() for word in (f"--{field.replace('_', '-')}", str(value))]
    more = ["--batch", "2", "--crop", "40", "--phase", "96x8@1", "--preset", "paper", "--photos", "somewhere"]
    result = CliRunner().invoke(app, ["train", name, "-o", str(tmp_path / "run"), *arguments, *more])
    assert (result.exit_code, result.stderr.strip()) == (2, "famkern: that is all")
    folders = told.pop("folders")
    assert folders == (recipe.Folder("photos", "somewhere"),)
    assert told == {**wanted, "batch": 2, "crop": 40, "phases": ["96x8@1"], "preset": "paper"}
    CliRunner().invoke(app, ["train", name, "-o", str(tmp_path / "run")])
    assert set(told.values()) == {None}, "what is not given is None"
