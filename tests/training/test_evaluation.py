"""Pairs are found as RESIDE names them, and the metrics are what RULES says."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import famkern
from famkern.models import Student

evaluation = pytest.importorskip("famkern.training.evaluation", reason="needs pip install 'famkern[training]'")


def save(path, seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("hazy", "clear"),
    [
        ("1400_1.png", "1400.png"),
        ("0001_0.8_0.2.jpg", "0001.png"),
        ("same.png", "same.jpg"),
        ("a_b_c.png", "a_b.png"),
    ],
)
def test_pairs_by_the_names_of_each_set(tmp_path, hazy, clear):
    save(tmp_path / "hazy" / hazy)
    save(tmp_path / "clear" / clear)
    (pair,) = evaluation.find_pairs(tmp_path)
    assert (pair.hazy.name, pair.clear.name) == (hazy, clear)


def test_a_hazy_picture_without_partner_is_named_and_the_others_are_measured(tmp_path):
    save(tmp_path / "hazy/7_1.png")
    save(tmp_path / "clear/8.png")
    save(tmp_path / "hazy/8_1.png")
    alone, score = evaluation.evaluate(famkern.Dehazer(Student(16, 1, 1)), evaluation.find_pairs(tmp_path))
    assert alone.problem == f"{tmp_path}/hazy/7_1.png: no clear picture of the same id in {tmp_path}/clear"
    assert score.hazy.name == "8_1.png"


@pytest.mark.parametrize("size", [(30, 22), (32, 20), (31, 21), (36, 26), (28, 22)])
def test_pairs_that_cannot_be_measured_are_named_and_the_others_are_measured(tmp_path, size):
    save(tmp_path / "hazy/7_1.png", size=(30, 20))
    save(tmp_path / "clear/7.png", size=size)
    save(tmp_path / "hazy/8_1.png")
    save(tmp_path / "clear/8.png", 1)
    (tmp_path / "hazy/9_1.png").write_bytes(b"")
    save(tmp_path / "clear/9.png")
    dehazer = famkern.Dehazer(Student(16, 1, 1))
    sizes, score, empty = evaluation.evaluate(dehazer, evaluation.find_pairs(tmp_path))
    assert sizes.problem.startswith(f"{tmp_path}/hazy/7_1.png: 30 x 20 pixels, but its partner")
    assert score.hazy.name == "8_1.png"
    assert "9_1.png: is empty" in empty.problem


@pytest.mark.parametrize("border", [1, 2])
@pytest.mark.parametrize("larger", ["hazy", "clear"])
def test_a_constant_border_that_one_picture_has_more_is_cropped(tmp_path, border, larger):
    for name, file in (("hazy", "7_1.png"), ("clear", "7.png")):
        save(tmp_path / name / file, seed=len(name), size=(60 + 2 * border, 50 + 2 * border))
        if name != larger:
            with Image.open(tmp_path / name / file) as image:
                image.crop((border, border, 60 + border, 50 + border)).save(tmp_path / name / file)
    (pair,) = evaluation.find_pairs(tmp_path)
    hazy, clear = evaluation.read_pair(pair)
    assert hazy.shape == clear.shape == (3, 50, 60)
    whole = evaluation.read(getattr(pair, larger))[:, border:-border, border:-border]
    assert torch.equal(hazy if larger == "hazy" else clear, whole)
    assert "are cropped" in evaluation.RULES


def test_psnr_is_its_definition():
    a, b = torch.rand(3, 40, 50), torch.rand(3, 40, 50)
    psnr, _ = evaluation.measure(a, b)
    assert psnr == pytest.approx(-10 * math.log10(float(((a.double() - b.double()) ** 2).mean())), abs=1e-4)


def test_ssim_is_its_definition_with_the_stated_border_rule():
    """11 x 11 Gaussian, sigma 1.5, where it lies inside the picture; means over pixels and channels."""
    torch.manual_seed(0)
    a, b = torch.rand(3, 30, 33, dtype=torch.float64), torch.rand(3, 30, 33, dtype=torch.float64)
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line[None]) / line.sum() ** 2

    def smooth(x):
        return torch.nn.functional.conv2d(x[:, None], window[None, None])[:, 0]

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b, cov = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2, smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    _, found = evaluation.measure(a.float(), b.float())
    assert found == pytest.approx(float(ssim.mean()), abs=1e-5)
    assert "only where it lies inside the picture" in evaluation.RULES


def test_scores_and_their_mean(tmp_path):
    save(tmp_path / "hazy/1_1.png", 1)
    save(tmp_path / "hazy/1_2.png", 2)
    save(tmp_path / "clear/1.png", 3)
    torch.manual_seed(0)
    dehazer = famkern.Dehazer(Student(16, 1, 1))
    scores = list(evaluation.evaluate(dehazer, evaluation.find_pairs(tmp_path)))
    assert len(scores) == 2
    mean = evaluation.mean(scores)
    assert mean.psnr == pytest.approx((scores[0].psnr + scores[1].psnr) / 2)
    assert mean.hazy_ssim == pytest.approx((scores[0].hazy_ssim + scores[1].hazy_ssim) / 2)
    assert scores[0].psnr != scores[0].hazy_psnr
