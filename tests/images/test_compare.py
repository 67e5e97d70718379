"""side_by_side: before and after in one picture of bounded size."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from famkern.images import Metadata, Picture, halves, read, side_by_side, write

WHITE = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


@pytest.mark.parametrize("dtype", list(WHITE))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (61, 67), (300, 20)])
def test_small_pictures_stand_beside_each_other_as_they_are(picture, height, width, dtype):
    before = picture(height, width, dtype)
    after = dataclasses.replace(before, pixels=WHITE[dtype] - before.pixels)
    both = side_by_side(before, after)
    assert both.pixels.dtype == np.uint8
    assert both.pixels.shape == (height, 2 * width + 8, 3)
    eight_bit = np.rint(before.pixels.astype(np.float64) * 255 / WHITE[dtype])
    assert np.array_equal(both.pixels[:, :width], eight_bit)
    assert np.abs(both.pixels[:, -width:] - (255 - eight_bit)).max() <= 1
    first, second = halves(both.pixels)
    assert np.array_equal(first, both.pixels[:, :width])
    assert np.array_equal(second, both.pixels[:, -width:])
    gap = both.pixels[:, width:-width]
    assert (gap == gap[0, 0, 0]).all()
    assert 64 < gap[0, 0, 0] < 192


@pytest.mark.parametrize(
    ("height", "width"), [(2, 2044), (2, 2045), (7, 4097), (1501, 5003), (5003, 601), (40_000, 3), (3, 40_000)]
)
def test_large_pictures_are_scaled_to_a_long_side_of_at_most_4096(height, width):
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1)
    before = Picture(np.ascontiguousarray((ramp * 255).astype(np.uint8)))
    both = side_by_side(before, before).pixels
    assert max(both.shape) <= 4096
    half = (both.shape[1] - 8) // 2
    assert np.array_equal(both[:, :half], both[:, -half:])
    assert abs(half / both.shape[0] / (width / height) - 1) < 0.02 or min(half, both.shape[0]) < 100
    expected = Image.fromarray(before.pixels).resize((half, both.shape[0]), Image.Resampling.BOX)
    assert np.abs(both[:, :half].astype(int) - np.asarray(expected)).max() <= 12
    assert np.abs(both[:, :half].astype(int) - np.asarray(expected)).mean() <= 2


@pytest.mark.parametrize("dtype", list(WHITE))
def test_alpha_is_flattened_over_white(dtype):
    white = WHITE[dtype]
    pixels = np.zeros((2, 3, 3), dtype)
    alpha = np.array([[0, white / 2, white]] * 2).astype(dtype)
    both = side_by_side(Picture(pixels, alpha), Picture(pixels, alpha))
    assert both.alpha is None
    assert np.abs(both.pixels[0, :3, 0].astype(int) - [255, 128, 0]).max() <= 1


def test_the_profile_goes_along_and_nothing_else(picture):
    metadata = Metadata(icc=b"profile", exif=b"II*\0", dpi=(72, 72))
    grey = picture(grey=True, metadata=metadata)
    assert side_by_side(grey, grey).metadata == Metadata(icc=b"profile")
    assert side_by_side(grey, grey).grey
    assert not side_by_side(grey, picture()).grey


def test_it_can_be_written_in_every_format(tmp_path, picture):
    both = side_by_side(picture(alpha=True), picture(alpha=True))
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        write(tmp_path / f"a.{suffix}", both)
        assert read(tmp_path / f"a.{suffix}").pixels.shape == both.pixels.shape


def test_sizes_must_agree(picture):
    with pytest.raises(ValueError, match="5 x 4 and 4 x 5"):
        side_by_side(picture(4, 5), picture(5, 4))
