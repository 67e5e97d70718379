"""What is written is what is read."""

import dataclasses

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from famkern.images import SUFFIXES, ImageError, Picture, header, read, write

U8, U16, F32 = np.uint8, np.uint16, np.float32
SIZES = [(1, 1), (1, 7), (5, 1), (61, 67), (131, 1031)]
# Format, depth, grey and alpha that a lossless format holds.
LOSSLESS = [
    *[("PNG", dtype, grey, alpha) for dtype in (U8, U16) for grey in (False, True) for alpha in (False, True)],
    *[("TIFF", dtype, grey, alpha) for dtype in (U8, U16, F32) for grey in (False, True) for alpha in (False, True)],
    *[("WEBP", U8, False, alpha) for alpha in (False, True)],
    *[("BMP", U8, grey, False) for grey in (False, True)],
]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("format", "dtype", "grey", "alpha"), LOSSLESS)
def test_lossless_formats_return_every_bit(tmp_path, picture, format, dtype, grey, alpha, height, width):
    original = picture(height, width, dtype, grey=grey, alpha=alpha, format=format)
    write(tmp_path / "a", original, format=format)
    again = read(tmp_path / "a")

    assert (again.format, again.grey, again.lossless) == (format, grey, True)
    assert again.pixels.dtype == dtype
    assert again.pixels.flags.c_contiguous
    assert np.array_equal(again.pixels, original.pixels)
    assert (again.alpha is None) == (original.alpha is None)
    if alpha:
        assert again.alpha.dtype == dtype
        assert np.array_equal(again.alpha, original.alpha)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("format", "dtype", "grey", "alpha"), LOSSLESS)
def test_header_tells_what_read_gives(tmp_path, picture, format, dtype, grey, alpha, height, width):
    write(tmp_path / "a", picture(height, width, dtype, grey=grey, alpha=alpha, format=format), format=format)
    found = header(tmp_path / "a")
    assert (found.path, found.format) == (tmp_path / "a", format)
    assert (found.height, found.width) == (height, width)
    assert found.channels == (1 if grey else 3) + alpha
    assert found.dtype == dtype


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(tmp_path, smooth, format, grey):
    pixels = np.repeat(smooth.pixels[..., 1:2], 3, axis=2) if grey else smooth.pixels
    write(tmp_path / "a", Picture(pixels, grey=grey), format=format)
    again = read(tmp_path / "a")
    assert again.pixels.dtype == U8
    assert again.grey == (grey and format == "JPEG")  # WebP has no grey
    assert not again.lossless
    assert np.abs(again.pixels.astype(int) - pixels).max() <= 6


def test_lossy_webp_keeps_alpha_exactly(tmp_path, picture):
    original = picture(alpha=True)
    write(tmp_path / "a.webp", original)
    assert np.array_equal(read(tmp_path / "a.webp").alpha, original.alpha)


def test_lossless_webp_keeps_colours_below_transparent_pixels(tmp_path, picture):
    original = picture(alpha=True, format="WEBP")
    original.alpha[:] = 0
    write(tmp_path / "a.webp", original)
    assert np.array_equal(read(tmp_path / "a.webp").pixels, original.pixels)


def test_a_quality_makes_a_lossless_webp_lossy(tmp_path, picture):
    write(tmp_path / "a.webp", picture(format="WEBP"), quality=80)
    assert not read(tmp_path / "a.webp").lossless


def test_higher_quality_is_a_larger_file_and_colour_is_kept_at_full_resolution(tmp_path, picture):
    for quality in (50, 90):
        write(tmp_path / f"{quality}.jpg", picture(), quality=quality)
    assert (tmp_path / "50.jpg").stat().st_size < (tmp_path / "90.jpg").stat().st_size
    with Image.open(tmp_path / "50.jpg") as image:
        assert {component[1:3] for component in image.layer} == {(1, 1)}


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_quality_out_of_range_is_refused(tmp_path, picture, quality):
    with pytest.raises(ValueError, match="1 to 100"):
        write(tmp_path / "a.jpg", picture(), quality=quality)


@pytest.mark.parametrize(
    ("format", "dtype"), [*((f, d) for f in ("JPEG", "WEBP", "BMP") for d in (U16, F32)), ("PNG", F32)]
)
def test_deeper_pictures_are_rounded_half_to_even(tmp_path, format, dtype):
    deepest = U16 if format == "PNG" else U8
    # Flat, so that lossy formats return it exactly: 100.5 and 101.5 (if the depth has them) both round to even.
    white, target = (1 if dtype == F32 else 65535), np.iinfo(deepest).max
    for value in (100.5, 101.5, 99.49, 7.0):
        wanted = np.rint(np.float64(dtype(value / target * white)) / white * target)
        write(tmp_path / "a", Picture(np.full((16, 16, 3), value / target * white, dtype)), format=format)
        again = read(tmp_path / "a").pixels
        assert again.dtype == deepest
        assert np.abs(again.astype(float) - wanted).max() <= (1 if format in ("JPEG", "WEBP") else 0)


@pytest.mark.parametrize("dtype", [U8, U16, F32])
def test_grey_is_written_as_luma_of_the_processed_pixels(tmp_path, picture, dtype):
    tinted = dataclasses.replace(picture(dtype=dtype), grey=True)
    write(tmp_path / "a.tif", tinted)
    again = read(tmp_path / "a.tif")
    luma = tinted.pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert again.grey
    assert np.array_equal(again.pixels[..., 0], (luma if dtype == F32 else np.rint(luma)).astype(dtype))


def test_grey_in_a_webp_is_luma_too(tmp_path, picture):
    tinted = dataclasses.replace(picture(format="WEBP"), grey=True)
    write(tmp_path / "a.webp", tinted)
    luma = np.rint(tinted.pixels @ [0.299, 0.587, 0.114]).astype(U8)
    assert np.array_equal(read(tmp_path / "a.webp").pixels, np.repeat(luma[..., None], 3, axis=2))


@pytest.mark.parametrize("format", ["JPEG", "BMP"])
def test_alpha_is_refused_where_it_cannot_be_held(tmp_path, picture, format):
    with pytest.raises(ImageError, match=r"transparency; write PNG, TIFF or WEBP"):
        write(tmp_path / "a", picture(alpha=True), format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "format"), [*SUFFIXES.items(), (".JPG", "JPEG"), (".Tif", "TIFF")])
def test_the_suffix_decides_the_format_written(tmp_path, smooth, suffix, format):
    write(tmp_path / f"a.b{suffix}", smooth)
    assert read(tmp_path / f"a.b{suffix}").format == format


def test_a_format_may_be_given_by_name_or_by_suffix(tmp_path, smooth):
    for format in ("TIFF", "tiff", "tif", ".tif"):
        write(tmp_path / "a.jpg", smooth, format=format)
        assert header(tmp_path / "a.jpg").format == "TIFF"


@pytest.mark.parametrize("name", ["a.gif", "a", "a.psd"])
def test_an_unknown_suffix_is_refused(tmp_path, smooth, name):
    with pytest.raises(ImageError, match="use JPEG, PNG, WEBP, TIFF, BMP, AVIF"):
        write(tmp_path / name, smooth)


@pytest.mark.parametrize(("format", "side"), [("WEBP", 16384), ("JPEG", 65501), ("PNG", 1_000_001)])
def test_a_side_beyond_the_format_is_refused(tmp_path, format, side):
    with pytest.raises(ImageError, match="write TIFF instead"):
        write(tmp_path / "a", Picture(np.zeros((1, side, 3), U8)), format=format)


def test_other_programs_read_what_is_written(tmp_path, picture):
    for dtype, alpha in ((U8, False), (U8, True), (U16, False), (U16, True)):
        original = picture(dtype=dtype, alpha=alpha)
        expected = np.dstack([original.pixels, original.alpha]) if alpha else original.pixels
        write(tmp_path / "a.png", original)
        assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), expected)
        write(tmp_path / "a.tif", original)
        assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), expected)
        assert np.array_equal(imagecodecs.tiff_decode((tmp_path / "a.tif").read_bytes()), expected)  # libtiff
        if dtype == U8:
            for name in ("a.png", "a.tif"):
                assert np.array_equal(np.asarray(Image.open(tmp_path / name)), expected)


@pytest.mark.parametrize("samples", [float("nan"), float("inf"), -0.01, 1.01])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_float_pixels_out_of_range_are_not_written(tmp_path, picture, samples, suffix):
    original = picture(dtype=F32)
    original.pixels[3, 4, 1] = samples
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        write(tmp_path / f"a{suffix}", original)
    assert not list(tmp_path.iterdir())


class TestPicture:
    def test_everything_but_the_pixels_carries_over(self, picture):
        original = picture(alpha=True, grey=True, format="TIFF", lossless=False)
        result = dataclasses.replace(original, pixels=255 - original.pixels)
        assert result.alpha is original.alpha
        assert (result.grey, result.format, result.lossless) == (True, "TIFF", False)

    @pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.int32), np.zeros((4, 4, 3), ">u2")])
    def test_other_dtypes_are_refused(self, pixels):
        with pytest.raises(TypeError, match="uint8, uint16 and float32"):
            Picture(pixels)

    @pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (0, 4, 3), (4, 4, 4), (1, 4, 4, 3)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="H, W, 3"):
            Picture(np.zeros(shape, U8))

    def test_other_layouts_are_refused(self):
        with pytest.raises(ValueError, match="C-contiguous"):
            Picture(np.zeros((3, 4, 4), U8).transpose(1, 2, 0))

    def test_alpha_has_the_size_and_dtype_of_the_pixels(self):
        for alpha in (np.zeros((4, 5), U8), np.zeros((4, 4), U16)):
            with pytest.raises(ValueError, match="alpha"):
                Picture(np.zeros((4, 4, 3), U8), alpha)
