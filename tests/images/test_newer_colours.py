"""Colours of JPEG XL, AVIF, HEIF and camera RAW: wide spaces are known, and converted like those of other formats."""

import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image

import famkern
from famkern.batch import dehaze_files, plan_jobs
from famkern.images import cicp, colour_space, header, libjxl, read, write
from famkern.models import Student

sys.path.insert(0, str(Path(__file__).parent))
import jxl_files
from corpus import dng
from jxl_files import BT2100, HLG, LINEAR, P3, PQ, SRGB, SRGB_PRIMARIES

ADOBE = bytes(imagecodecs.cms_profile("adobergb"))
NEUTRAL_SRGB = bytes(imagecodecs.cms_profile("srgb"))
# Display P3, as Apple's profile says it, but for the names.
DISPLAY_P3 = cicp.profile(12, 13)

# With a tone curve that no number describes.
TABLED = bytes(
    imagecodecs.cms_profile(
        "rgb",
        whitepoint=cicp.D65,
        primaries=cicp.PRIMARIES[12][1],
        transferfunction=(0.9 * np.linspace(0, 1, 256) ** 2 + 0.1 * np.linspace(0, 1, 256)).astype(np.float32),
    )
)


def colours(dtype=np.uint8):
    """(40, 56, 3): smooth, with saturated colours."""
    y, x = np.mgrid[:40, :56]
    planes = np.stack([x / 56, y / 40, 1 - (x + y) / 96], -1)
    return np.rint(planes * np.iinfo(dtype).max).astype(dtype)


def in_srgb(pixels, icc):
    """As floats from 0 to 1."""
    pixels = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    return imagecodecs.cms_transform(pixels, icc, NEUTRAL_SRGB, colorspace="rgb", outcolorspace="rgb", intent=1).clip(
        0, 1
    )


def as_read(path, data):
    path.write_bytes(data)
    picture = read(path)
    assert header(path).metadata.icc == picture.metadata.icc
    return picture


class TestJpegXl:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_a_profile_is_kept(self, tmp_path, dtype, caplog):
        picture = as_read(tmp_path / "a.jxl", jxl_files.encode(colours(dtype), ADOBE))
        assert np.array_equal(picture.pixels, colours(dtype))
        assert picture.metadata.icc == ADOBE
        assert not caplog.messages

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_a_space_that_is_named_becomes_a_profile(self, tmp_path, dtype, caplog):
        picture = as_read(tmp_path / "a.jxl", jxl_files.encode(colours(dtype), (P3, SRGB)))
        assert np.array_equal(picture.pixels, colours(dtype))
        expected = in_srgb(colours(dtype), DISPLAY_P3)
        assert np.abs(in_srgb(picture.pixels, picture.metadata.icc) - expected).max() <= 1 / 255
        assert colour_space(picture.metadata.icc)
        assert not caplog.messages

    @pytest.mark.parametrize("colouring", [ADOBE, TABLED, (P3, SRGB), (SRGB_PRIMARIES, LINEAR)])
    def test_lossy_files_have_the_profile_of_what_was_decoded(self, tmp_path, colouring, caplog):
        picture = as_read(tmp_path / "a.jxl", jxl_files.encode(colours(np.uint16), colouring, lossless=False))
        seen = in_srgb(picture.pixels, picture.metadata.icc or NEUTRAL_SRGB)
        original = {(P3, SRGB): DISPLAY_P3, (SRGB_PRIMARIES, LINEAR): cicp.profile(1, 8)}.get(colouring, colouring)
        assert np.abs(seen - in_srgb(colours(np.uint16), original)).mean() <= 2 / 255
        assert not caplog.messages

    def test_linear_light_is_not_taken_for_srgb(self, tmp_path):
        data = imagecodecs.jpegxl_encode(colours(np.uint16), lossless=True)  # which imagecodecs writes as linear
        picture = as_read(tmp_path / "a.jxl", data)
        assert colour_space(picture.metadata.icc)
        expected = in_srgb(colours(np.uint16), cicp.profile(1, 8))
        assert np.abs(in_srgb(picture.pixels, picture.metadata.icc) - expected).max() <= 1 / 255

    def test_srgb_has_no_profile_and_no_warning(self, tmp_path, caplog):
        for data in (
            imagecodecs.jpegxl_encode(colours(), lossless=True),
            jxl_files.encode(colours(np.uint16), (SRGB_PRIMARIES, SRGB)),
        ):
            assert as_read(tmp_path / "a.jxl", data).metadata.icc is None
        assert not caplog.messages

    def test_grey(self, tmp_path, caplog):
        picture = as_read(tmp_path / "a.jxl", jxl_files.encode(colours()[..., 0].copy(), (SRGB_PRIMARIES, LINEAR)))
        assert picture.grey
        assert picture.metadata.icc[16:20] == b"GRAY"
        write(tmp_path / "a.webp", picture)
        assert read(tmp_path / "a.webp").metadata.icc is None
        assert not caplog.messages

    @pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
    def test_hdr_is_said(self, tmp_path, caplog, transfer, name):
        picture = as_read(tmp_path / "a.jxl", jxl_files.encode(colours(np.uint16), (BT2100, transfer)))
        assert np.array_equal(picture.pixels, colours(np.uint16))
        (line,) = caplog.messages
        assert f"HDR, {name}" in line

    def test_where_the_library_cannot_be_asked_a_line_says_so(self, tmp_path, caplog, monkeypatch):
        libjxl._library.cache_clear()
        monkeypatch.setattr(libjxl, "OLDEST", 10**9)
        picture = as_read(tmp_path / "a.jxl", jxl_files.encode(colours(), ADOBE))
        libjxl._library.cache_clear()
        assert np.array_equal(picture.pixels, colours())
        (line,) = caplog.messages
        assert line.startswith(f"{tmp_path}/a.jxl: read without damaged metadata: colour profile, which imagecodecs")


class TestAvif:
    @pytest.mark.parametrize("bits", [8, 10])
    def test_a_space_that_is_named_becomes_a_profile(self, tmp_path, bits, caplog):
        pixels = colours() if bits == 8 else colours(np.uint16) >> 16 - bits
        data = imagecodecs.avif_encode(pixels, level=100, bitspersample=bits, primaries=12, transfer=13, matrix=0)
        picture = as_read(tmp_path / "a.avif", data)
        assert picture.metadata.icc == DISPLAY_P3
        assert not caplog.messages

    def test_a_profile_is_kept_and_goes_before_a_name(self, tmp_path, encoded):
        picture = as_read(tmp_path / "a.avif", encoded(colours(), "AVIF", quality=100, icc_profile=ADOBE))
        assert picture.metadata.icc == ADOBE

    def test_srgb_and_video_have_none(self, tmp_path, caplog):
        for primaries, transfer in ((1, 13), (1, 1), (2, 2)):
            data = imagecodecs.avif_encode(colours(), level=90, primaries=primaries, transfer=transfer)
            assert as_read(tmp_path / "a.avif", data).metadata.icc is None
        assert not caplog.messages

    def test_hdr_is_said(self, tmp_path, caplog):
        data = imagecodecs.avif_encode(
            colours(np.uint16) >> 6, level=90, bitspersample=10, primaries=9, transfer=16, matrix=9
        )
        as_read(tmp_path / "a.avif", data)
        (line,) = caplog.messages
        assert "HDR, PQ" in line


class TestHeif:
    @pytest.fixture(autouse=True)
    def installed(self):
        self.heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif (pip install 'famkern[formats]')")

    def file(self, path, **settings):
        self.heif.from_pillow(Image.fromarray(colours())).save(path, quality=95, chroma=444, **settings)
        return path

    def test_a_profile_is_kept(self, tmp_path):
        assert read(self.file(tmp_path / "a.heic", icc_profile=ADOBE)).metadata.icc == ADOBE

    def test_a_space_that_is_named_becomes_a_profile(self, tmp_path):
        path = self.file(tmp_path / "a.heic", color_primaries=12, transfer_characteristics=13, matrix_coefficients=6)
        assert header(path).metadata.icc == read(path).metadata.icc == DISPLAY_P3

    def test_hdr_is_said(self, tmp_path, caplog):
        read(self.file(tmp_path / "a.heic", color_primaries=9, transfer_characteristics=18, matrix_coefficients=9))
        (line,) = caplog.messages
        assert "HDR, HLG" in line


class TestPng:
    def png(self, path, png_file, named, icc=None):
        pixels = colours()
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        before = [(b"cICP", bytes((*named, 0, 1)))]
        if icc:
            import zlib

            before.append((b"iCCP", b"x\0\0" + zlib.compress(icc)))
        path.write_bytes(png_file(pixels.shape[1], pixels.shape[0], 8, 2, rows, before))
        return path

    @pytest.mark.parametrize("icc", [None, NEUTRAL_SRGB])
    def test_a_space_that_is_named_becomes_a_profile(self, tmp_path, png_file, icc, caplog):
        picture = read(self.png(tmp_path / "a.png", png_file, (12, 13), icc))
        assert picture.metadata.icc == DISPLAY_P3
        write(tmp_path / "b.jpg", picture)
        assert read(tmp_path / "b.jpg").metadata.icc == DISPLAY_P3
        assert not caplog.messages

    def test_hdr_is_said_and_stays(self, tmp_path, png_file, caplog):
        picture = read(self.png(tmp_path / "a.png", png_file, (9, 16)))
        (line,) = caplog.messages
        assert "HDR, PQ" in line
        write(tmp_path / "b.png", picture)
        assert (b"cICP", bytes((9, 16, 0, 1))) in read(tmp_path / "b.png").metadata.chunks


@pytest.mark.parametrize("kind", ["jxl", "jxl named", "avif", "heic", "png"])
def test_the_network_sees_srgb_and_the_result_is_in_the_space_of_the_picture(tmp_path, kind, encoded, png_file):
    torch.manual_seed(0)
    dehazer = famkern.Dehazer(Student(16, 1, 1), strength=0.2)
    hazy, path = 60 + colours() // 2, tmp_path / f"hazy.{kind.split()[0]}"
    if kind == "heic":
        heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif (pip install 'famkern[formats]')")
        image = heif.from_pillow(Image.fromarray(hazy))
        image.save(path, quality=-1, chroma=444, matrix_coefficients=0, icc_profile=ADOBE)
    elif kind == "png":
        TestPng().png(path, png_file, (12, 13))
    else:
        makers = {
            "jxl": lambda: jxl_files.encode(hazy, ADOBE),
            "jxl named": lambda: jxl_files.encode(hazy, (P3, SRGB)),
            "avif": lambda: imagecodecs.avif_encode(hazy, level=100, primaries=12, transfer=13, matrix=0),
        }
        path.write_bytes(makers[kind]())
    picture = read(path)
    space = colour_space(picture.metadata.icc)
    seen = space.to_srgb(picture.pixels)
    expected = dehazer(seen)
    space.bring_back(expected, picture.pixels, seen)
    (outcome,) = dehaze_files(plan_jobs([path], tmp_path / "clear.png"), dehazer)
    assert outcome.done, outcome.problem
    result = read(tmp_path / "clear.png")
    assert result.metadata.icc == picture.metadata.icc
    assert np.array_equal(result.pixels, expected)
    assert np.abs(result.pixels.astype(int) - dehazer(picture.pixels)).max() >= 2  # it is not without consequence


def test_raw_is_developed_to_srgb(tmp_path):
    """A camera whose own colours are those of sRGB in linear light: what comes out is them on sRGB's curve."""
    pytest.importorskip("rawpy", reason="needs rawpy (pip install 'famkern[formats]')")
    light = np.linspace(0.05, 1, 96)[None].repeat(64, 0)
    mosaic = np.empty((64, 96))
    for row, column, share in ((0, 0, 1.0), (0, 1, 0.5), (1, 0, 0.5), (1, 1, 0.25)):  # red, green, green, blue
        mosaic[row::2, column::2] = light[row::2, column::2] * share
    matrix = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)  # XYZ to linear sRGB
    (tmp_path / "a.dng").write_bytes(dng(np.rint(65535 * mosaic).astype(np.uint16), matrix))
    picture = read(tmp_path / "a.dng")
    assert picture.metadata.icc is None
    value = picture.pixels[8:-8, 8:48].astype(float) / 65535
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    red, green, blue = np.moveaxis(linear, -1, 0)
    np.testing.assert_allclose(red / green, 2, rtol=0.04)
    np.testing.assert_allclose(green / blue, 2, rtol=0.04)
