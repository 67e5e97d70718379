"""Orthophotos: pixels without data stay as they are and count for nothing; further bands stay as they are."""

import copy
import dataclasses

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import famkern
from famkern.batch import Options, dehaze_files, plan_jobs
from famkern.images import Gaps, ImageError, Picture, header, read, write
from famkern.models import Student

U8, U16, F32 = np.uint8, np.uint16, np.float32
SIZE = (45, 67)


@pytest.fixture(scope="module")
def dehazer():
    torch.manual_seed(0)
    return famkern.Dehazer(Student(16, 1, 1), strength=0.5)


@pytest.fixture
def valid():
    """A slanted footprint with a hole, as a flight leaves it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (x + y > 30) & (x - y < 50) & ~((y > 10) & (y < 14) & (x > 30) & (x < 40))


def ortho(dtype, nodata, valid, bands=3):
    """Samples with this value outside."""
    random = np.random.default_rng(0)
    white = 1 if dtype == F32 else np.iinfo(dtype).max
    samples = (random.uniform(0.2, 0.8, (*SIZE, bands)) * white).astype(dtype)
    samples[~valid] = nodata
    return samples


def dehaze(source, target, dehazer, **options):
    options = Options(**options)
    (outcome,) = dehaze_files(plan_jobs([source], target, options=options), dehazer, options)
    assert outcome.done, outcome.problem


NODATA = [(U8, 0), (U8, 255), (U16, 0), (U16, 65535), (F32, 0), (F32, -9999), (F32, float("nan"))]


class TestNodata:
    @pytest.mark.parametrize("grey", [False, True])
    @pytest.mark.parametrize(("dtype", "nodata"), NODATA)
    def test_it_stays_exactly_where_it_was_and_nowhere_else(self, tmp_path, dehazer, valid, dtype, nodata, grey):
        samples = ortho(dtype, nodata, valid)
        samples = samples[..., 0] if grey else samples
        tags = [(42113, 2, 0, str(nodata), True)]
        photometric = "minisblack" if grey else "rgb"
        tifffile.imwrite(tmp_path / "a.tif", samples, photometric=photometric, extratags=tags)
        dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert file.pages.first.nodata == nodata or np.isnan(nodata)
            result = file.asarray()
        colours = result if grey else result[..., 0]
        same = np.isnan(colours) if np.isnan(nodata) else colours == nodata
        assert same[~valid].all()
        assert np.array_equal(read(tmp_path / "b.tif").valid, valid)
        assert (result != samples)[valid].any()

    @pytest.mark.parametrize(
        ("dtype", "nodata", "scale"), [*((*kind, 1) for kind in NODATA), (U8, 0, 2), (F32, -9999, 3)]
    )
    def test_its_value_does_not_matter(self, tmp_path, dehazer, valid, dtype, nodata, scale):
        dehazer, results = copy.copy(dehazer), []
        dehazer.scale = scale
        for value in (nodata, 1 if dtype == F32 else 77):
            samples = ortho(dtype, value, valid)
            tags = [(42113, 2, 0, str(value), True)]
            tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extratags=tags)
            dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer, overwrite=True)
            results.append(tifffile.imread(tmp_path / "b.tif")[valid])
        assert np.array_equal(*results)

    def test_it_counts_in_no_fit(self, tmp_path, dehazer, valid, monkeypatch):
        """The dehazer is told, whatever it makes of that: tests/engine/test_transmission.py."""
        told = []
        call = type(dehazer).stream
        monkeypatch.setattr(type(dehazer), "stream", lambda *a, **k: told.append(k["valid"]) or call(*a, **k))
        tags = [(42113, 2, 0, "0", True)]
        tifffile.imwrite(tmp_path / "a.tif", ortho(U8, 0, valid), photometric="rgb", extratags=tags)
        dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
        assert np.array_equal(told, [valid])

    @pytest.mark.parametrize(("dtype", "nodata", "other"), [(U8, 0, 1), (U8, 255, 254), (U16, 9, 10), (F32, 0, None)])
    def test_no_valid_pixel_becomes_nodata(self, valid, dtype, nodata, other):
        picture = Picture(ortho(dtype, nodata, valid), valid=valid, nodata=nodata)
        pixels = np.full_like(picture.pixels, nodata)
        Gaps(picture).restore(pixels)
        assert np.array_equal(pixels == nodata, np.repeat(~valid[..., None], 3, 2))
        if other is not None:
            assert (pixels[valid] == other).all()

    @pytest.mark.parametrize("text", ["none", "", "1e999", "0,5"])
    def test_text_that_is_no_number_is_no_nodata(self, tmp_path, valid, text):
        tags = [(42113, 2, 0, text, True)]
        tifffile.imwrite(tmp_path / "a.tif", ortho(U8, 7, valid), photometric="rgb", extratags=tags)
        found = read(tmp_path / "a.tif").valid
        assert found is None or found.all()


class TestMasks:
    def test_they_are_read_and_written(self, tmp_path, dehazer, valid):
        samples = ortho(U8, 200, valid)
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(samples, photometric="rgb", metadata=None, subifds=0)
            file.write(samples[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
            file.write(valid, photometric="mask", metadata=None, subfiletype=4)
            file.write(valid[::2, ::2], photometric="mask", metadata=None, subfiletype=5)
        assert np.array_equal(read(tmp_path / "a.tif").valid, valid)
        dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
        again = read(tmp_path / "b.tif")
        assert np.array_equal(again.valid, valid)
        assert np.array_equal(again.pixels[~valid], samples[~valid])
        assert (again.pixels != samples)[valid].any()
        with pytest.raises(ImageError, match="holds no mask of valid pixels; write TIFF"):
            write(tmp_path / "b.png", again)

    def test_one_of_another_size_is_refused(self, tmp_path, valid):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(ortho(U8, 0, valid), photometric="rgb", metadata=None)
            file.write(valid[1:], photometric="mask", metadata=None, subfiletype=4)
        with pytest.raises(ImageError, match="mask is not of its picture's size"):
            read(tmp_path / "a.tif")

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_they_are_turned_with_the_picture(self, tmp_path, valid, orientation):
        samples = np.where(valid[..., None], 100, 0).astype(U8).repeat(3, 2)
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(samples, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)])
            file.write(valid, photometric="mask", metadata=None, subfiletype=4)
        again = read(tmp_path / "a.tif")
        assert np.array_equal(again.pixels[..., 0] == 100, again.valid)


class TestBands:
    @pytest.mark.parametrize("dtype", [U8, U16, F32])
    @pytest.mark.parametrize("kinds", [(0,), (0, 0), (2, 0), (1, 0, 0), (0, 2)])
    @pytest.mark.parametrize("planar", [False, True])
    def test_they_stay_as_they_are(self, tmp_path, dehazer, valid, dtype, kinds, planar):
        samples = ortho(dtype, 0, np.ones_like(valid), 3 + len(kinds))
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.moveaxis(samples, -1, 0) if planar else samples,
            photometric="rgb",
            planarconfig="separate" if planar else "contig",
            extrasamples=kinds,
        )
        assert header(tmp_path / "a.tif").channels == (4 if kinds[0] else 3)
        dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            found = tuple(map(int, file.pages.first.extrasamples))
            result = file.asarray()
        assert found == ((2, *kinds[1:]) if kinds[0] == 1 else kinds)
        assert np.array_equal(result[..., 3:], samples[..., 3:])
        assert (result[..., :3] != samples[..., :3]).any()

    def test_of_grey(self, tmp_path, dehazer, valid):
        samples = ortho(U8, 0, np.ones_like(valid), 2)
        tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", planarconfig="contig", extrasamples=[0])
        dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
        assert np.array_equal(tifffile.imread(tmp_path / "b.tif")[..., 1], samples[..., 1])

    def test_other_formats_hold_none(self, tmp_path, valid):
        samples = ortho(U8, 0, np.ones_like(valid), 4)
        tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=[0])
        for format in ("JPEG", "PNG", "WEBP", "BMP"):
            with pytest.raises(ImageError, match="holds no bands beside colours and transparency; write TIFF"):
                write(tmp_path / "b", read(tmp_path / "a.tif"), format=format)


def test_tiles_without_data_are_left_out_by_gdal(tmp_path, dehazer):
    samples = np.zeros((64, 64, 3), U8)
    samples[:32, :32] = 90 + np.arange(32)[:, None, None]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", tile=(32, 32))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages.first.tags
        for tag in (324, 325):  # offsets and lengths
            size = tags[tag].valuebytecount // 4
            for tile in (1, 2, 3):
                at = tags[tag].valueoffset + tile * size
                data[at : at + size] = bytes(size)
    (tmp_path / "a.tif").write_bytes(data)
    assert np.array_equal(read(tmp_path / "a.tif").pixels, samples)
    dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
    again = read(tmp_path / "b.tif").pixels
    assert not again[32:].any()
    assert not again[:, 32:].any()
    assert not np.array_equal(again, samples)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_full_transparency_hides_stays_and_does_not_matter(tmp_path, dehazer, valid, mode):
    results = []
    for colour in (0, 255):
        samples = ortho(U8, colour, valid, len(mode))
        samples[..., -1] = valid * 255
        Image.fromarray(samples).save(tmp_path / "a.png")
        dehaze(tmp_path / "a.png", tmp_path / "b.png", dehazer, overwrite=True)
        again = read(tmp_path / "b.png")
        assert (again.pixels[~valid] == colour).all()
        results.append(again.pixels[valid])
    assert np.array_equal(*results)


class TestFilling:
    @pytest.mark.parametrize("dtype", [U8, U16, F32])
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (33, 129), (600, 700)])
    def test_an_even_picture_stays_even(self, dtype, size):
        value = 0.5 if dtype == F32 else 100
        known = np.random.default_rng(0).random(size) < 0.01
        known[0, -1] = True
        pixels = np.where(known[..., None], value, np.float32("nan") if dtype == F32 else 7).astype(dtype).repeat(3, 2)
        Gaps(Picture(pixels, valid=known)).fill(pixels)
        assert (pixels == value).all()

    def test_each_pixel_is_the_mean_of_what_is_next(self, valid):
        pixels = ortho(F32, 0, valid)
        original = pixels.copy()
        Gaps(Picture(pixels, valid=valid)).fill(pixels)
        assert np.array_equal(pixels[valid], original[valid])
        y, x = 24, 6  # its block of 2 x 2 has one valid pixel, or more
        block = slice(y, y + 2), slice(x, x + 2)
        assert valid[block].any()
        assert not valid[block].all()
        assert np.allclose(pixels[block][~valid[block]], original[block][valid[block]].mean(0))

    def test_nothing_valid_at_all(self, tmp_path, dehazer):
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((9, 9, 3), U8), photometric="rgb", extratags=[(42113, 2, 0, "0", True)]
        )
        dehaze(tmp_path / "a.tif", tmp_path / "b.tif", dehazer)
        assert not tifffile.imread(tmp_path / "b.tif").any()


def test_valid_has_the_size_of_the_pixels(picture):
    with pytest.raises(ValueError, match="valid is"):
        dataclasses.replace(picture(), valid=np.ones((1, 1), bool))
