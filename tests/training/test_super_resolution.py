"""The teacher: its quick ways are its own, it starts as bicubic enlargement, learns, and is measured by RULES."""

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("lightning", reason="needs pip install 'famkern[training]'")

from typer.testing import CliRunner

from famkern import cli, models
from famkern.training import data, recipe, run
from famkern.training import super_resolution as sr

SETS = Path(__file__).parents[3] / "shared/data/sr"


def teacher(seed=0):
    torch.manual_seed(seed)
    return models.Teacher()


def small(photos, **changes):
    folders = (recipe.Folder("photos", str(photos)),)
    return replace(recipe.TEACHER, folders=folders, steps=30, phases=(data.Phase(1.0, 32, 4),), **changes)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (16, 24), (13, 8)])
def test_the_quick_way_up_is_the_teacher(height, width):
    image, network = torch.rand(2, 3, height, width), teacher()
    wanted, found = network(image), sr.upscale(network, image)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    weight = torch.rand_like(wanted)
    for output in (wanted, found):
        (output * weight).sum().backward()
        grads = [parameter.grad.clone() for parameter in network.parameters()]
        network.zero_grad()
        if output is wanted:
            expected = grads
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (16, 24), (31, 18)])
def test_the_pooled_output_is_the_pooled_output(height, width):
    image, network = torch.rand(2, 3, height, width), teacher()
    torch.testing.assert_close(sr.pooled(network, image), F.avg_pool2d(network(image), 8), rtol=0, atol=1e-5)


def test_it_starts_as_bicubic_enlargement():
    network = teacher()
    for one in sr.networks(network):
        sr.start_as_bicubic(one)
        torch.nn.init.zeros_(one.last_part.weight[1:])
    image = torch.rand(3, 12, 15)
    inside = (..., slice(4, -4), slice(4, -4))  # beyond the border there are zeros, not more of the picture
    found = network(image[None])[0].clamp(0, 1)
    torch.testing.assert_close(found[inside], sr.bicubic(image)[inside], rtol=0, atol=1e-5)


def test_it_learns(tmp_path, photos):
    optimiser = replace(recipe.TEACHER.optimiser, warmup=5)
    task = sr.SuperResolution(small(photos, start="random", loss="mse", optimiser=optimiser), sr.find_pictures(photos))
    before = sum(score.psnr for score in sr.evaluate(task.teacher, task.pictures))
    run.train(task, run.Session(tmp_path / "run", device="cpu", threads=1, log_every=10))
    with (tmp_path / "run/log.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[0] > 2 * losses[-1]
    found = models.load(tmp_path / "run/teacher.safetensors")
    assert isinstance(found, models.Teacher)
    assert sum(score.psnr for score in sr.evaluate(found, task.pictures)) > before


def test_small_pictures_have_8_bits(photos):
    sharp = torch.rand(1, 3, 20, 20)
    small = sr.halved(sharp)
    assert small.shape == (1, 3, 10, 10)
    assert torch.equal((small * 255).round() / 255, small)
    # Pillow's bicubic is the same filter.
    picture = Image.open(photos / "0.png")
    wanted = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    found = sr.halved(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255)
    assert np.abs((found[0].permute(1, 2, 0) * 255).round().int().numpy() - wanted).max() <= 1


def test_psnr_is_its_definition():
    a, b = torch.rand(3, 11, 9), torch.rand(3, 11, 9)
    luma = [
        16 + 65.481 * r + 128.553 * g + 24.966 * b for r, g, b in ((x.double() * 255).round() / 255 for x in (a, b))
    ]
    error = float(((luma[0] - luma[1])[2:-2, 2:-2] ** 2).mean())
    assert sr.psnr_y(a, b) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-6)


def save(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def test_pictures_of_a_benchmark(tmp_path):
    save(tmp_path / "a/HR/x.png", (21, 16))
    save(tmp_path / "a/LRx2/x.png", (10, 8))
    (picture,) = sr.find_pictures(tmp_path / "a")
    small, sharp = picture.read()
    assert (small.shape, sharp.shape) == ((3, 8, 10), (3, 16, 20))
    save(tmp_path / "b/y.png", (21, 16))
    (picture,) = sr.find_pictures(tmp_path / "b")
    assert picture.read()[0].shape == (3, 8, 10)
    save(tmp_path / "a/LRx2/x.png", (11, 8))
    with pytest.raises(ValueError, match=r"x\.png: 11 x 8 pixels, but .* has 21 x 16; half of that expected"):
        sr.find_pictures(tmp_path / "a")[0].read()
    save(tmp_path / "a/HR/z.png", (4, 4))
    with pytest.raises(ValueError, match=r"z\.png: no picture of the same name"):
        sr.find_pictures(tmp_path / "a")


def test_odd_crops_are_refused(photos):
    with pytest.raises(ValueError, match="crops of 33 pixels cannot be halved"):
        sr.SuperResolution(replace(small(photos), phases=(data.Phase(1.0, 33, 2),)))


def test_the_commands(tmp_path, photos):
    def famkern(*arguments):
        return CliRunner().invoke(cli.app, [*map(str, arguments)])

    arguments = ["--photos", photos, "--steps", 2, "--crop", 16, "--batch", 2, "--val", photos, "--device", "cpu"]
    result = famkern("train", "teacher", "-o", tmp_path / "run", *arguments)
    assert result.exit_code == 0, result.output
    assert "psnr_y" in (tmp_path / "run/log.csv").read_text()
    assert (tmp_path / "run/samples.png").is_file()
    weights = tmp_path / "run/teacher.safetensors"

    result = famkern("evaluate", photos, "--model", weights)
    assert result.exit_code == 0, result.output
    assert re.search(r"bicubic +\d+\.\d\d dB", result.output)
    assert f"4 pictures, x2; {sr.RULES}" in result.output

    assert famkern("evaluate", photos, "--model", weights, "--dtype", "float64").exit_code == 2

    result = famkern("dehaze", photos, "-o", tmp_path / "out", "--model", weights)
    assert result.exit_code == 2
    assert result.output.endswith(f"not a Teacher ({weights}), which enlarges pictures and removes no haze\n")


@pytest.mark.skipif(not SETS.is_dir(), reason="needs Set5")
def test_bicubic_on_set5_is_what_others_find():
    scores = list(sr.evaluate(teacher(), sr.find_pictures(SETS / "set5")))
    assert sum(score.bicubic_psnr for score in scores) / 5 == pytest.approx(33.67, abs=0.02)


@pytest.mark.skipif(
    not (SETS.parents[1] / "weights/fsrcnn_x2_from_saafke.pt").is_file(), reason="needs FSRCNN's weights"
)
def test_fsrcnn_on_set5_is_what_others_find():
    """FSRCNN works on luma alone; RULES gives it what is known of these weights."""
    w = torch.load(SETS.parents[1] / "weights/fsrcnn_x2_from_saafke.pt", weights_only=True)

    def fsrcnn(x):
        for i, padding in enumerate((2, 0, 1, 1, 1, 1, 0), start=1):
            x = F.prelu(F.conv2d(x, w[f"f{i}"], w[f"b{i}"], padding=padding), w[f"alpha{i}"])
        return F.pixel_shuffle(F.conv2d(x, w["f8"]), 2) + w["b8"]

    found = []
    for picture in sr.find_pictures(SETS / "set5"):
        small, sharp = picture.read()
        luma = torch.tensor([65.481, 128.553, 24.966])
        y, wanted = (16 / 255 + torch.tensordot(luma, x, 1) / 255 for x in (small, sharp))
        output = fsrcnn(y[None, None])[0, 0].clamp(0, 1)
        error = ((output - wanted)[2:-2, 2:-2] ** 2).mean()
        found.append(-10 * math.log10(float(error)))
    assert sum(found) / 5 == pytest.approx(34.86, abs=0.1)
