"""The map of transmission as a file beside the output."""

import os

import numpy as np
import pytest
import tifffile
from PIL import Image

import famkern
from famkern import images
from famkern.batch import Options, Skip, dehaze_files, plan_jobs
from famkern.models import Student

NODATA, POSITION = 42113, 33922


@pytest.fixture(scope="module")
def dehazer():
    return famkern.Dehazer("student", scale=2)


def run(inputs, output, dehazer, **options):
    options = Options(transmission=True, **options)
    outcomes = dehaze_files(plan_jobs(inputs, output, options=options), dehazer, options)
    return ["done" if o.done else o.skipped or o.problem for o in outcomes]


def picture(path, size=(40, 30)):
    """Noise behind haze."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) // 3 + 150
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize(
    ("source", "options", "target"),
    [
        ("a.png", {}, "a-transmission.png"),
        ("a.jpg", {"suffix": "_x"}, "a_x-transmission.png"),
        ("a.TIF", {}, "a-transmission.TIF"),
        ("a.png", {"format": "tiff", "compare": True}, "a-transmission.tiff"),
    ],
)
def test_it_lies_beside_the_output_in_16_bits_of_grey(tmp_path, dehazer, source, options, target):
    picture(tmp_path / source)
    hazy = images.read(tmp_path / source).pixels
    assert run([tmp_path / source], tmp_path / "out", dehazer, **options) == ["done"]
    found = images.header(tmp_path / "out" / target)
    assert (found.channels, found.dtype, found.width, found.height) == (1, np.uint16, 40, 30)
    expected = dehazer.transmission(hazy, dehazer(hazy))
    result = images.read(tmp_path / "out" / target).pixels[..., 0]
    assert np.array_equal(result, np.rint(expected * 65535))
    assert (result < 65535).mean() > 0.9


def test_runs_do_not_feed_on_it_and_make_up_for_it(tmp_path, dehazer):
    picture(tmp_path / "a.png")
    options = Options(suffix="-x")
    list(dehaze_files(plan_jobs([tmp_path], tmp_path, options=options), dehazer, options))
    stamp = (tmp_path / "a-x.png").stat().st_mtime_ns
    assert run([tmp_path], tmp_path, dehazer, suffix="-x") == [Skip.OUTPUT, "done"]
    assert (tmp_path / "a-x.png").stat().st_mtime_ns == stamp
    assert run([tmp_path], tmp_path, dehazer, suffix="-x") == [Skip.OUTPUT, Skip.OUTPUT, Skip.THERE]
    assert sorted(os.listdir(tmp_path)) == ["a-x-transmission.png", "a-x.png", "a.png"]


def test_an_input_of_its_name_is_not_replaced(tmp_path, dehazer):
    for name in ("a.png", "a-transmission.png"):
        picture(tmp_path / name)
    before = (tmp_path / "a-transmission.png").read_bytes()
    lines = run([tmp_path / "a.png", tmp_path / "a-transmission.png"], tmp_path, dehazer, format="jpg", overwrite=True)
    assert any("is another input" in line for line in lines)
    assert (tmp_path / "a-transmission.png").read_bytes() == before


@pytest.mark.parametrize("nodata", [0, 255, 77])
def test_no_data_is_0_and_the_position_stays(tmp_path, dehazer, nodata):
    samples = picture(tmp_path / "a.png")
    samples[:, :13] = nodata
    tags = [(NODATA, 2, 0, str(nodata), True), (POSITION, 12, 6, (0.0, 0.0, 0.0, 7.0, 8.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extratags=tags)
    assert run([tmp_path / "a.tif"], tmp_path / "out", dehazer) == ["done"]
    with tifffile.TiffFile(tmp_path / "out/a-transmission.tif") as file:
        page = file.pages.first
        assert page.nodata == 0
        assert page.tags[POSITION].value == (0.0, 0.0, 0.0, 7.0, 8.0, 0.0)
        assert np.array_equal(page.asarray() == 0, np.broadcast_to(np.arange(40) < 13, (30, 40)))


def test_the_mask_does_not_count(tmp_path, dehazer):
    """What is said of the haze is what the network found, not what is left of it."""
    picture(tmp_path / "a.png")
    Image.new("L", (40, 30)).save(tmp_path / "mask.png")
    maps = []
    for name, mask in (("with", tmp_path / "mask.png"), ("without", None)):
        assert run([tmp_path / "a.png"], tmp_path / name, dehazer, mask=mask) == ["done"]
        maps.append((tmp_path / name / "a-transmission.png").read_bytes())
    assert maps[0] == maps[1]


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_the_least_bound_that_an_error_states_is_enough(tmp_path, dehazer, scale):
    picture(tmp_path / "wide.png", (3000, 70))
    dehazer = famkern.Dehazer(Student(16, 1, 1), scale=scale)
    (line,) = run([tmp_path / "wide.png"], tmp_path / "out", dehazer, memory="1MiB")
    least = int(line.split("at least ")[1].split()[0])
    assert run([tmp_path / "wide.png"], tmp_path / "out", dehazer, memory=least) == ["done"]


def test_at_strength_0_it_is_refused_before_any_file(tmp_path):
    with pytest.raises(ValueError, match="strength is 0"):
        run([tmp_path / "a.png"], tmp_path, famkern.Dehazer(Student(16, 1, 1), strength=0))


def test_what_stands_in_its_place_is_refused_before_anything_is_computed(tmp_path, dehazer, monkeypatch):
    picture(tmp_path / "a.png")
    (tmp_path / "out/a-transmission.png").mkdir(parents=True)
    monkeypatch.setattr(images, "read", None)
    (line,) = run([tmp_path / "a.png"], tmp_path / "out", dehazer)
    assert "a-transmission.png: is a folder" in line
