"""`famkern synthesize` writes what `famkern evaluate` reads."""

import os

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from famkern import images
from famkern.cli import app
from famkern.training.data import Depths, Haze, Pairs, Photos, Solved, find_pairs
from famkern.training.data.synthesis import synthesize

from .pictures import photo, reside, save, slope

PLAIN = Haze(beta=(1, 1), airlight=(1, 1), white=1, tint=0, none=0, thin=0)


def test_files_make_a_reside_folder_and_follow_the_model(tmp_path):
    source = Solved(reside(tmp_path / "in"), haze=PLAIN)
    outcomes = list(synthesize(source, tmp_path / "out", 5))
    assert not any(outcome.problem or outcome.skipped for outcome in outcomes)
    pairs = find_pairs(tmp_path / "out")
    assert len(pairs) == 5
    assert {pair.clear.stem for pair in pairs} == {"1400", "1401"}
    for pair in pairs:
        hazy, clear = (np.asarray(Image.open(path)).astype(float) for path in (pair.hazy, pair.clear))
        levels = images.read(tmp_path / "out/transmission" / pair.hazy.name)
        assert levels.grey
        assert levels.pixels.dtype == np.uint16
        t = levels.pixels[..., :1] / 65535
        assert np.abs(clear * t + 255 * (1 - t) - hazy).max() <= 0.51
        np.testing.assert_array_equal(clear, np.asarray(Image.open(tmp_path / "in/clear" / pair.clear.name)))


def test_a_pair_depends_on_its_number_and_the_seed(tmp_path):
    source = Solved(reside(tmp_path / "in"))

    def contents(name, pairs, **options):
        list(synthesize(source, tmp_path / name, pairs, **options))
        return {path.name: path.read_bytes() for path in (tmp_path / name / "hazy").iterdir()}

    few, many, other = contents("few", 2), contents("many", 4), contents("other", 4, seed=1)
    assert few == {name: many[name] for name in few}
    assert many != other


def test_existing_pairs_are_skipped_or_replaced(tmp_path):
    source = Pairs(reside(tmp_path / "in", scenes=1, levels=(1,)))
    list(synthesize(source, tmp_path / "out", 1))
    (pair,) = find_pairs(tmp_path / "out")
    assert not (tmp_path / "out/transmission").exists()
    whole = pair.hazy.read_bytes()
    pair.hazy.write_bytes(b"")
    assert [outcome.skipped for outcome in synthesize(source, tmp_path / "out", 1)] == [True]
    assert pair.hazy.read_bytes() == b""
    assert [outcome.skipped for outcome in synthesize(source, tmp_path / "out", 1, overwrite=True)] == [False]
    assert pair.hazy.read_bytes() == whole


def test_names_are_told_apart(tmp_path):
    for name in ("a/x.png", "b/x.png", "x-2.png", "x_1.png"):
        save(tmp_path / "in" / name, photo())
    list(synthesize(Photos(tmp_path / "in"), tmp_path / "out", 8, size=20))
    pairs = find_pairs(tmp_path / "out")
    assert len(pairs) == 8
    assert len({pair.clear for pair in pairs}) == 4
    assert {Image.open(pair.hazy).size for pair in pairs} == {(20, 16)}


def test_a_pair_that_fails_is_reported_and_the_others_are_done(tmp_path):
    save(tmp_path / "in/good.png", photo())
    (tmp_path / "in/bad.png").write_bytes(b"nothing")
    outcomes = list(synthesize(Photos(tmp_path / "in"), tmp_path / "out", 2))
    (problem,) = [outcome.problem for outcome in outcomes if outcome.problem]
    assert "bad.png: is not a JPEG" in problem
    assert os.listdir(tmp_path / "out/hazy") == ["good_1.png"]


def test_depth_with_sky(tmp_path):
    depth = np.rint(20000 * slope(48, 60)).astype(np.uint16)
    depth[:8] = 65535
    save(tmp_path / "in/rgb/1.png", photo())
    save(tmp_path / "in/depth/1.png", depth)
    list(synthesize(Depths(tmp_path / "in", haze=PLAIN, sky=True), tmp_path / "out", 1))
    levels = images.read(tmp_path / "out/transmission/1_1.png").pixels[..., 0] / 65535
    assert levels[:8].max() < np.exp(-1.1) < levels[9:].max()


def famkern(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_and_evaluate_agree(tmp_path):
    pytest.importorskip("torchmetrics", reason="needs pip install 'famkern[training]'")
    reside(tmp_path / "in")
    made = famkern("synthesize", tmp_path / "in", "-o", tmp_path / "out", "--kind", "solved", "--count", 3)
    assert (made.exit_code, made.stdout, made.stderr) == (0, "", "")
    result = famkern("evaluate", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "3 pairs" in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--kind", "pairs"], 1, "holds hazy/ and clear/"),
        (["--kind", "pairs", "--haze", "indoor"], 2, "--haze goes with --kind photos, solved, depth, not pairs"),
        (["--sky"], 2, "--sky goes with --kind depth, not photos"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path, options, code, message):
    result = famkern("synthesize", tmp_path, "-o", tmp_path / "out", *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
