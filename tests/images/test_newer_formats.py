"""AVIF, JPEG XL, HEIF and camera RAW."""

import dataclasses
import io
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from famkern import images
from famkern.images import ImageError, Metadata, header, raw, read, write

sys.path.insert(0, str(Path(__file__).parent))
from corpus import dng

U8, U16, F32 = np.uint8, np.uint16, np.float32


def deep(smooth, bits):
    """Samples of so many bits, and the same on the scale that read() gives."""
    samples = smooth.pixels.astype(np.float64) / 255 * (2**bits - 1)
    samples = np.rint(samples).astype(U8 if bits == 8 else U16)
    return samples, samples / (2**bits - 1) * (255 if bits == 8 else 65535)


class TestAvif:
    @pytest.mark.parametrize("bits", [8, 10, 12])
    def test_every_depth(self, tmp_path, smooth, bits):
        samples, expected = deep(smooth, bits)
        data = imagecodecs.avif_encode(samples, level=100, bitspersample=bits)
        (tmp_path / "a").write_bytes(data)
        found, picture = header(tmp_path / "a"), read(tmp_path / "a")
        assert (found.format, found.dtype, found.channels) == ("AVIF", U8 if bits == 8 else U16, 3)
        assert picture.pixels.dtype == found.dtype
        assert np.abs(picture.pixels - expected).max() <= 0.01 * expected.max()

    @pytest.mark.parametrize("alpha", [False, True])
    def test_written_and_read(self, tmp_path, smooth, alpha, exif_block, exif_values, srgb_profile):
        metadata = Metadata(exif=exif_block(), icc=srgb_profile, xmp=b"<x/>")
        transparency = smooth.pixels[..., 0].copy() if alpha else None
        write(tmp_path / "a.avif", dataclasses.replace(smooth, alpha=transparency, metadata=metadata))
        again = read(tmp_path / "a.avif")
        assert np.abs(again.pixels.astype(int) - smooth.pixels).max() <= 8
        assert (again.alpha is None) != alpha
        assert (again.metadata.icc, again.metadata.xmp) == (srgb_profile, b"<x/>")
        assert exif_values(again.metadata.exif)["main"][271] == "Camera & Co"

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientations(self, tmp_path, smooth, encoded, exif_block, orientation):
        data = encoded(
            smooth.pixels, "AVIF", quality=100, subsampling="4:4:4", exif=b"Exif\0\0" + exif_block(orientation)
        )
        (tmp_path / "a").write_bytes(data)
        expected = images.reading.upright(smooth.pixels, orientation)
        assert np.abs(read(tmp_path / "a").pixels.astype(int) - expected).max() <= 8

    def test_grey(self, tmp_path, smooth, encoded):
        grey = np.ascontiguousarray(smooth.pixels[..., 1])
        (tmp_path / "a").write_bytes(encoded(grey, "AVIF", quality=100))
        assert np.abs(read(tmp_path / "a").pixels.astype(int) - grey[..., None]).max() <= 8

    def test_animated_is_refused(self, tmp_path, smooth, encoded):
        frames = [Image.fromarray(255 - smooth.pixels)]
        (tmp_path / "a").write_bytes(encoded(smooth.pixels, "AVIF", save_all=True, append_images=frames))
        for open_ in (header, read):
            with pytest.raises(ImageError, match="animated"):
                open_(tmp_path / "a")


class TestJpegXl:
    @pytest.mark.parametrize("container", [False, True])
    @pytest.mark.parametrize("dtype", [U8, U16, F32])
    @pytest.mark.parametrize(("grey", "alpha"), [(False, False), (True, False), (False, True), (True, True)])
    @pytest.mark.parametrize("size", [(61, 67), (64, 64), (48, 64), (8, 16), (1, 1)])
    def test_header_and_pixels(self, tmp_path, picture, size, grey, alpha, dtype, container):
        original = picture(*size, dtype=dtype, grey=grey, alpha=alpha)
        parts = [original.pixels[..., :1] if grey else original.pixels]
        samples = np.concatenate([*parts, original.alpha[..., None]], 2) if alpha else parts[0]
        samples = samples[..., 0] if samples.shape[2] == 1 else samples
        data = imagecodecs.jpegxl_encode(samples, lossless=True, usecontainer=container)
        (tmp_path / "a").write_bytes(data)
        found, again = header(tmp_path / "a"), read(tmp_path / "a")
        assert (found.format, found.dtype, found.channels) == ("JPEG XL", dtype, (1 if grey else 3) + alpha)
        assert (found.height, found.width) == size
        assert np.allclose(again.pixels, original.pixels, atol=1e-6)
        if alpha:
            assert np.allclose(again.alpha, original.alpha, atol=1e-6)

    def test_metadata_in_boxes(self, tmp_path, smooth, exif_block, exif_values):
        data = imagecodecs.jpegxl_encode(smooth.pixels, usecontainer=True)
        packed = imagecodecs.brotli_encode(b"<x>packed</x>")
        for name, contents in ((b"Exif", bytes(4) + exif_block(6)), (b"brob", b"xml " + packed)):
            data += (len(contents) + 8).to_bytes(4, "big") + name + contents
        (tmp_path / "a.jxl").write_bytes(data)
        again = read(tmp_path / "a.jxl")
        assert again.pixels.shape == smooth.pixels.shape  # the codestream's orientation counts
        assert again.metadata.xmp == b"<x>packed</x>"
        values = exif_values(again.metadata.exif)["main"]
        assert (values[271], values[274]) == ("Camera & Co", 1)

    @pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("container", [False, True])
    def test_cut_off(self, tmp_path, picture, fraction, container):
        data = imagecodecs.jpegxl_encode(picture().pixels, lossless=True, usecontainer=container)
        (tmp_path / "a").write_bytes(data[: int(len(data) * fraction)])
        with pytest.raises(ImageError):
            read(tmp_path / "a")


class TestHeif:
    @pytest.fixture(autouse=True)
    def installed(self):
        self.heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif (pip install 'famkern[formats]')")

    def file(self, path, samples, mode=None, **settings):
        if mode is None:
            image = self.heif.from_pillow(Image.fromarray(samples))
        else:
            image = self.heif.from_bytes(mode, samples.shape[1::-1], samples.tobytes())
        image.save(path, quality=-1, chroma=444, matrix_coefficients=0, **settings)

    @pytest.mark.parametrize("alpha", [False, True])
    def test_8_bit(self, tmp_path, smooth, alpha, exif_block, exif_values, srgb_profile):
        samples = np.dstack([smooth.pixels, smooth.pixels[..., 0]]) if alpha else smooth.pixels
        image = self.heif.from_pillow(Image.fromarray(samples))
        image.info["icc_profile"], image.info["xmp"] = srgb_profile, b"<x/>"
        image.save(tmp_path / "a.heic", quality=95, exif=exif_block(1))
        found, again = header(tmp_path / "a.heic"), read(tmp_path / "a.heic")
        assert (found.format, found.dtype, found.channels) == ("HEIF", U8, 3 + alpha)
        assert np.abs(again.pixels.astype(int) - smooth.pixels).max() <= 10
        assert (again.alpha is None) != alpha
        assert exif_values(again.metadata.exif)["main"][271] == "Camera & Co"
        write(tmp_path / "b.png", again)
        assert read(tmp_path / "b.png").pixels.shape == smooth.pixels.shape

    def test_10_bit(self, tmp_path, smooth):
        samples = smooth.pixels.astype(U16) * 257
        image = self.heif.from_bytes("RGB;16", (128, 96), samples.tobytes())
        image.save(tmp_path / "a.heic", quality=95)
        again = read(tmp_path / "a.heic")
        assert again.pixels.dtype == U16
        assert np.abs(again.pixels.astype(float) - samples).max() <= 10 * 257

    def test_cut_off(self, tmp_path, smooth):
        self.heif.from_pillow(Image.fromarray(smooth.pixels)).save(tmp_path / "a.heic", quality=95)
        data = (tmp_path / "a.heic").read_bytes()
        for length in (12, 40, len(data) // 2, len(data) - 9):
            (tmp_path / "b.heic").write_bytes(data[:length])
            with pytest.raises(ImageError):
                read(tmp_path / "b.heic")


class TestRaw:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("rawpy", reason="needs rawpy (pip install 'famkern[formats]')")

    def test_a_dng(self, tmp_path, exif_values):
        y, x = np.mgrid[:64, :96]
        (tmp_path / "a.dng").write_bytes(dng((20_000 + 300 * x + 100 * y).astype(U16)))
        found, picture = header(tmp_path / "a.dng"), read(tmp_path / "a.dng")
        assert (found.format, found.dtype, found.channels) == ("RAW", U16, 3)
        assert picture.pixels.shape == (found.height, found.width, 3)
        assert abs(found.height - 64) <= 8
        assert picture.pixels[-8:, -8:].mean() > picture.pixels[:8, :8].mean() + 1000
        assert exif_values(picture.metadata.exif)["main"][271] == "Camera & Co"

    @pytest.mark.parametrize("suffix", [".nef", ".CR3", ".dng"])
    def test_damage_is_one_line(self, tmp_path, suffix):
        (tmp_path / f"a{suffix}").write_bytes(b"II*\0" + bytes(999))
        with pytest.raises(
            ImageError, match=rf"a{suffix}: cannot be developed \(LibRaw\w+: [^'\"]*\); get another copy"
        ):
            read(tmp_path / f"a{suffix}")

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "a.dng").write_bytes(dng(np.full((64, 96), 20_000, U16)))
        return tmp_path / "a.dng"

    def test_what_libraw_says_of_a_file_it_cannot_develop_is_in_the_one_line(self, path, capfd):
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(
            ImageError, match=r"a\.dng: cannot be developed \(LibRawIOError: Input/output error\); get another copy"
        ):
            read(path)
        assert capfd.readouterr() == ("", "")

    def test_what_libraw_says_of_a_file_it_develops_is_a_warning(self, path, monkeypatch, caplog, capfd):
        monkeypatch.setattr(raw, "PROGRAM", "import os; os.write(2, b'Data corrupted at 7\\n'); " + raw.PROGRAM)
        expected = read(path)
        assert caplog.messages == [f"{path}: LibRaw says: Data corrupted at 7; look at the result"]
        monkeypatch.undo()
        caplog.clear()
        assert np.array_equal(read(path).pixels, expected.pixels)
        assert not caplog.messages
        assert capfd.readouterr() == ("", "")

    def test_a_crash_of_libraw_is_one_line(self, path, monkeypatch):
        monkeypatch.setattr(raw, "PROGRAM", "import os; os.abort()")
        with pytest.raises(ImageError, match=r"a\.dng: cannot be developed \(LibRaw ended with code -6\)"):
            read(path)

    def test_a_picture_of_another_size_is_one_line(self, path, monkeypatch):
        for count in (100, 10**6):
            monkeypatch.setattr(raw, "PROGRAM", f"import os; os.write(1, bytes({count}))")
            with pytest.raises(ImageError, match=r"a\.dng: cannot be developed"):
                read(path)


@pytest.mark.parametrize(
    ("name", "module", "content"),
    [("a.nef", "rawpy", b"II*\0" + bytes(99)), ("a.heic", "pillow_heif", b"\0\0\0\x18ftypheic" + bytes(99))],
)
def test_where_a_package_is_missing_a_line_says_so(tmp_path, monkeypatch, name, module, content):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=r"which is not installed: pip install 'famkern\[formats\]'"):
        header(tmp_path / name)


@pytest.mark.parametrize("animated", [False, True])
def test_gifs_are_refused_in_a_line(tmp_path, smooth, animated):
    file = io.BytesIO()
    frames = [Image.fromarray(255 - smooth.pixels)] if animated else []
    Image.fromarray(smooth.pixels).save(file, "GIF", save_all=True, append_images=frames)
    (tmp_path / "a.gif").write_bytes(file.getvalue())
    with pytest.raises(ImageError, match="GIFs are not supported"):
        read(tmp_path / "a.gif")
