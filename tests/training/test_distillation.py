"""The student's loss: its parts are the paper's, and what is trained is the student alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("lightning", reason="needs pip install 'famkern[training]'")

from safetensors.torch import save_file

from famkern import models
from famkern.models.student import normalise
from famkern.ops import affinity
from famkern.training import data, distillation, journal, recipe, run
from famkern.training.task import restoration_loss


@pytest.fixture
def make(tmp_path, photos):
    """Makes a small task with changes to its recipe; "teacher" is one with random weights."""
    torch.manual_seed(1)
    save_file(models.Teacher().state_dict(), tmp_path / "teacher.safetensors")

    def make(**changes):
        if changes.get("teacher"):
            changes["teacher"] = str(tmp_path / "teacher.safetensors")
        folders = (recipe.Folder("photos", str(photos)),)
        task = distillation.Distillation(replace(recipe.STUDENT, folders=folders, groups=2, blocks=1, **changes))
        task.setup("fit")
        return task

    return make


BATCH = {
    name: torch.rand(2, 3, 18, 23, generator=torch.Generator().manual_seed(i))
    for i, name in enumerate(["hazy", "clear"])
}


def test_the_losses_are_their_formulas():
    a, b = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    assert torch.equal(restoration_loss("l1", a, b), (a - b).abs().mean())
    assert torch.equal(restoration_loss("mse", a, b), F.mse_loss(a, b))
    e = a - b
    across, down = (e[..., 1:] - e[..., :-1]).abs().sum(), (e[:, :, 1:] - e[:, :, :-1]).abs().sum()
    torch.testing.assert_close(restoration_loss("gradient", a, b), (e.abs().sum() + across + down) / e.numel())
    assert restoration_loss("border", a, b) > restoration_loss("gradient", a, b)  # all of it is near the border
    torch.testing.assert_close(restoration_loss("charbonnier", a, b), ((a - b) ** 2 + 1e-6).sqrt().mean())
    each = torch.stack([F.mse_loss(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(restoration_loss("psnr", a, b), 0.1 * torch.log(each + 1e-5).mean())


@pytest.mark.parametrize("scale", ["paper", "rms"])
def test_the_loss_is_the_papers(make, scale):
    task = make(teacher=True, loss="mse", fam_weight=0.5, fam_scale=scale)
    found = task.training_step(BATCH)
    output, guide = task.student(normalise(BATCH["hazy"])), task.teacher(BATCH["clear"])
    restoration = F.mse_loss(output, BATCH["clear"])
    wanted = affinity.reference(guide, output, teacher_pool=8, student_pool=4, scale=scale)
    torch.testing.assert_close(found["restoration"], restoration.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["affinity"], wanted.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found["loss"], restoration + 0.5 * wanted, rtol=1e-4, atol=0)


def test_only_the_student_is_trained(make):
    task = make(teacher=True)
    task.training_step(BATCH)["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.student.parameters())
    assert all(parameter.grad is None for parameter in [*task.teacher.parameters(), *task.average.parameters()])
    optimised = {id(p) for group in task.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert optimised == {id(parameter) for parameter in task.student.parameters()}
    assert not task.teacher.training
    assert {name.split(".")[0] for name in task.state_dict()} == {"student", "teacher", "average"}


def test_without_a_teacher_there_is_no_affinity(make):
    task = make()
    assert task.training_step(BATCH).keys() == {"loss"}
    assert task.parts == ()


def test_an_output_out_of_range_is_pulled_back(make):
    task = make()
    with torch.no_grad():
        task.student.post[1].bias.fill_(50)
    task.training_step(BATCH)["loss"].backward()
    assert (task.student.post[1].bias.grad > 0).all()


def test_a_seed_gives_the_same_student(make):
    a, b, c = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(a.student.pre[0].weight, b.student.pre[0].weight)
    assert not torch.equal(a.student.pre[0].weight, c.student.pre[0].weight)


def test_start_from_weights(make, tmp_path):
    torch.manual_seed(9)
    student = models.Student(16, 2, 1)
    save_file(student.state_dict(), tmp_path / "start.safetensors")
    task = make(init=str(tmp_path / "start.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(task.student.parameters(), student.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(task.averaged.parameters(), student.parameters(), strict=True))


def test_what_weights_say_of_themselves_goes_on(make, tmp_path):
    start, end = tmp_path / "start.safetensors", tmp_path / "student.safetensors"
    facts = {"famkern": '{"window": 96, "scale_side": 640}'}
    save_file(models.Student(16, 2, 1).state_dict(), start, facts)
    for given, window in ((None, 96), (128, 128), (0, None)):
        task = make(init=str(start), window=given)
        journal.export(task, end, step=3)
        trained = models.load(end)
        assert (trained.window, trained.scale_side) == (window, 640)
        assert (task.dehazer().window, task.dehazer().scale_side) == (window, 640)
    with pytest.raises(
        ValueError, match=r"crops of 240 pixels .* the window of 96, which .* has; --window 0 is for none"
    ):
        make(init=str(start), phases=(data.Phase(1.0, 240, 1),))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions(make, tmp_path, precision):
    task = make(teacher=True, precision=precision)
    task.recipe = replace(task.recipe, steps=2, phases=(replace(task.recipe.phases[-1], size=16, batch=2),))
    run.train(task, run.Session(tmp_path / "run", device="cpu"))
    weights = models.load(tmp_path / "run/student.safetensors")
    assert {parameter.dtype for parameter in weights.parameters()} == {torch.float32}


def test_weights_are_given_the_window_that_they_are_validated_with(make, tmp_path):
    task = make(window=96)
    journal.export(task, tmp_path / "student.safetensors", step=3)
    assert models.load(tmp_path / "student.safetensors").window == 96
    assert task.dehazer().window == 96
    journal.export(make(), tmp_path / "student.safetensors", step=3)
    assert models.load(tmp_path / "student.safetensors").window is None


def test_crops_fit_the_window(make):
    with pytest.raises(ValueError, match="crops of 96 pixels are larger than the window of 80"):
        make(window=80)
