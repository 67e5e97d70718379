"""Profiles of other spaces than sRGB: the network sees sRGB, and the result is of the space that the picture had."""

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image

import famkern
from famkern.batch import Options, dehaze_files, plan_jobs
from famkern.images import Picture, colour_space, read, write
from famkern.images.picture import Metadata
from famkern.models import Student

ADOBE = bytes(imagecodecs.cms_profile("adobergb"))
PROPHOTO = bytes(
    imagecodecs.cms_profile(
        "rgb", whitepoint=(0.3457, 0.3585, 1.0), primaries=(0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), gamma=1.8
    )
)
SRGB = bytes(imagecodecs.cms_profile("srgb"))
WIDE = pytest.mark.parametrize("icc", [ADOBE, PROPHOTO], ids=["Adobe RGB", "ProPhoto RGB"])
DEPTHS = pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])


@pytest.fixture(scope="module")
def dehazer():
    torch.manual_seed(0)
    return famkern.Dehazer(Student(16, 1, 1), strength=0.2)  # little enough that few pixels are clamped


def everything(dtype):
    """(70, 90, 3): colours all over the space, those that sRGB lacks among them."""
    pixels = np.random.default_rng(0).uniform(0, 1, (70, 90, 3)).astype(np.float32)
    return pixels if dtype == np.float32 else np.rint(pixels * np.iinfo(dtype).max).astype(dtype)


def converted(pixels, source, target):
    return imagecodecs.cms_transform(pixels, source, target, colorspace="rgb", outcolorspace="rgb", intent=1)


@DEPTHS
@WIDE
def test_what_the_network_leaves_alone_comes_back_as_it_was(icc, dtype):
    hazy, space = everything(dtype), colour_space(icc)
    seen = space.to_srgb(hazy)
    assert seen.dtype == dtype
    assert seen.min() >= 0
    assert seen.max() <= (1 if dtype == np.float32 else np.iinfo(dtype).max)
    assert np.abs(seen.astype(float) - hazy).max() > (0.05 if dtype == np.float32 else 0.05 * np.iinfo(dtype).max)
    clear = seen.copy()
    space.bring_back(clear, hazy, seen)
    np.testing.assert_allclose(clear, hazy, rtol=0, atol=1e-6 if dtype == np.float32 else 0)


def test_spaces_are_told_by_what_they_do_and_not_by_name(inks_profile):
    grey = bytes(imagecodecs.cms_profile("gray", gamma=2.2))
    assert colour_space(None) is None
    assert colour_space(SRGB) is None
    assert colour_space(grey) is None
    assert colour_space(inks_profile) is None
    assert colour_space(b"damaged") is None
    assert colour_space(ADOBE[:-40]) is None
    assert colour_space(ADOBE) is colour_space(bytes(ADOBE))


@WIDE
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_files(tmp_path, dehazer, icc, suffix):
    """The result, converted to sRGB, is that of the picture converted to sRGB; and it has its profile."""
    hazy = converted((0.3 + 0.4 * everything(np.float32)).astype(np.float32), SRGB, icc).clip(0, 1)
    hazy = np.rint(hazy * 65535).astype(np.uint16)
    write(tmp_path / f"hazy.{suffix}", Picture(hazy, metadata=Metadata(icc=icc)))
    run(tmp_path / f"hazy.{suffix}", tmp_path / f"clear.{suffix}", dehazer)
    result = read(tmp_path / f"clear.{suffix}")
    assert result.metadata.icc == icc
    expected = dehazer(converted(hazy, icc, SRGB))
    ignored = dehazer(hazy)
    inside = ((expected > 3000) & (expected < 62000)).all(-1)  # no clamp took part, nor the steep start of a tone curve
    assert inside.mean() > 0.1
    difference = np.abs(converted(result.pixels, icc, SRGB).astype(float) - expected)[inside]
    assert difference.max() <= 655  # a hundredth: what the tables of the round trip leave
    assert np.abs(result.pixels.astype(float) - ignored).max() > 1300


@WIDE
def test_files_within_a_bound_on_memory_have_the_same_pixels(tmp_path, dehazer, icc):
    hazy = everything(np.uint8)
    write(tmp_path / "hazy.png", Picture(hazy, metadata=Metadata(icc=icc)))
    run(tmp_path / "hazy.png", tmp_path / "a.png", dehazer)
    run(tmp_path / "hazy.png", tmp_path / "b.png", dehazer, memory="256MiB")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("options", [{"transmission": True}, {"compare": True}])
def test_what_goes_beside_it_is_written_too(tmp_path, dehazer, options):
    write(tmp_path / "hazy.png", Picture(everything(np.uint8), metadata=Metadata(icc=ADOBE)))
    (tmp_path / "out").mkdir()
    run(tmp_path / "hazy.png", tmp_path / "out", dehazer, **options)
    assert len(list((tmp_path / "out").iterdir())) == 2
    before = read(tmp_path / "hazy.png").pixels
    assert np.array_equal(before, everything(np.uint8))


@WIDE
def test_images_of_pillow(dehazer, icc):
    hazy = everything(np.uint8)
    image = Image.fromarray(hazy)
    image.info["icc_profile"] = icc
    result = dehazer(image)
    space = colour_space(icc)
    seen = space.to_srgb(hazy)
    expected = dehazer(seen)
    space.bring_back(expected, hazy, seen)
    assert np.array_equal(np.asarray(result), expected)
    assert result.info["icc_profile"] == icc
    image.info["icc_profile"] = SRGB
    assert np.array_equal(np.asarray(dehazer(image)), dehazer(hazy))
    grey = Image.fromarray(hazy[..., 0])
    grey.info["icc_profile"] = icc
    assert np.array_equal(np.asarray(dehazer(grey)), np.asarray(dehazer(Image.fromarray(hazy[..., 0]))))


def run(source, target, dehazer, **options):
    options = Options(**options)
    (outcome,) = dehaze_files(plan_jobs([source], target, options=options), dehazer, options)
    assert outcome.done, outcome.problem
