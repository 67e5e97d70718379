"""Every file that cannot be read is one ImageError, whose one line names it; no pixel is guessed, no memory wasted."""

import contextlib
import os
import struct
import threading
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from famkern.images import ImageError, Picture, header, read, write

FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP"]


def problem(path, **settings) -> str:
    """The message with which `path` is refused by read(), after the name."""
    with pytest.raises(ImageError) as caught:
        read(path, **settings)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


class TestCutOff:
    @pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_files(self, tmp_path, picture, format, dtype, fraction):
        write(tmp_path / "a", picture(131, 97, dtype, format=format), format=format)
        data = (tmp_path / "a").read_bytes()
        (tmp_path / "a").write_bytes(data[: int(len(data) * fraction)])
        problem(tmp_path / "a")

    @pytest.mark.parametrize("missing", [1, 3, 8, 20])
    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
    def test_the_last_bytes(self, tmp_path, picture, format, missing):
        write(tmp_path / "a", picture(), format=format)
        data = (tmp_path / "a").read_bytes()
        if format == "TIFF":
            with tifffile.TiffFile(tmp_path / "a") as file:
                page = file.pages.first
                data = data[: page.dataoffsets[-1] + page.databytecounts[-1]]
        (tmp_path / "a").write_bytes(data[:-missing])
        problem(tmp_path / "a")

    @pytest.mark.parametrize("length", range(1, 40))
    @pytest.mark.parametrize("format", FORMATS)
    def test_within_the_header(self, tmp_path, picture, format, length):
        write(tmp_path / "a", picture(), format=format)
        (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:length])
        problem(tmp_path / "a")
        with pytest.raises(ImageError):
            header(tmp_path / "a")

    @pytest.mark.parametrize("fraction", [0.5, 0.7, 0.95])
    @pytest.mark.parametrize("settings", [{"progressive": True}, {"subsampling": "4:2:0"}])
    def test_jpegs_of_other_kinds_and_with_a_thumbnail(self, tmp_path, picture, encoded, settings, fraction):
        thumbnail = encoded(picture(8, 8).pixels, "JPEG")
        data = encoded(picture().pixels, "JPEG", exif=b"Exif\0\0" + thumbnail, **settings)
        (tmp_path / "a").write_bytes(data[: int(len(data) * fraction)])
        assert "cut off" in problem(tmp_path / "a")

    @pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}, {"compression": "lzw"}])
    def test_tiffs_of_other_kinds(self, tmp_path, picture, layout):
        tifffile.imwrite(tmp_path / "a", picture().pixels, photometric="rgb", **layout)
        data = (tmp_path / "a").read_bytes()
        (tmp_path / "a").write_bytes(data[: len(data) * 3 // 4])
        assert "cut off" in problem(tmp_path / "a")


@pytest.mark.parametrize("format", FORMATS)
def test_flipped_bytes_are_an_image_error_or_an_image(tmp_path, picture, format):
    write(tmp_path / "a", picture(31, 37, format=format), format=format)
    data = (tmp_path / "a").read_bytes()
    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            damaged = bytearray(data)
            for place in random.integers(0, min(len(data), 400), 3):
                damaged[place] = random.integers(0, 256)
            (tmp_path / "b").write_bytes(damaged)
            with contextlib.suppress(ImageError):
                assert isinstance(read(tmp_path / "b", max_pixels=10**6), Picture)


def test_damaged_numbers_are_no_warning_of_numpy(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((40, 40, 3), 8, np.uint8), photometric="rgb", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tag = file.pages.first.tags[258]  # bits of each channel; tifffile hands long ones on as arrays
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[tag.offset + 4 : tag.offset + 8] = (1028).to_bytes(4, "little")
    data[tag.valueoffset : tag.valueoffset + 2] = (250).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert "damaged, or of a kind that is not supported" in problem(tmp_path / "a.tif")
    assert not told


def test_what_is_no_image_file(tmp_path):
    assert "No such file" in problem(tmp_path / "missing.png")
    assert "No such file" in problem(tmp_path / "no folder" / "missing.png")
    assert "is a folder" in problem(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "is empty" in problem(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("not an image, just text")
    assert "not a JPEG, PNG, WebP, TIFF, BMP, AVIF, JPEG XL or HEIF image" in problem(tmp_path / "text.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in problem(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert "Not a directory" in problem(tmp_path / "file" / "a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_an_unreadable_file(tmp_path, smooth):
    write(tmp_path / "a.png", smooth)
    (tmp_path / "a.png").chmod(0)
    assert "Permission denied" in problem(tmp_path / "a.png")


def test_a_line_break_in_a_name_stays_out_of_the_message(tmp_path):
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


class TestTooManyPixels:
    @pytest.mark.parametrize("open_", [header, read])
    @pytest.mark.parametrize("format", FORMATS)
    def test_the_limit_is_inclusive(self, tmp_path, picture, format, open_):
        write(tmp_path / "a", picture(20, 30), format=format)
        open_(tmp_path / "a", max_pixels=600)
        with pytest.raises(ImageError, match=r"30 x 20 = 600 pixels, over the limit of 599; raise max_pixels"):
            open_(tmp_path / "a", max_pixels=599)

    def crafted(self, kind, png_file) -> bytes:
        side = {"JPEG": 65000}.get(kind, 100_000)
        if kind == "PNG":
            return png_file(side, side, 16, 6, bytes(1000))
        if kind == "BMP":
            fields = (154, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
            return b"BM" + struct.pack("<IHHIIiiHHIIiiII", *fields) + bytes(99)
        if kind == "JPEG":
            frame = struct.pack(">HBHHB", 17, 8, side, side, 3) + bytes((1, 17, 0, 2, 17, 0, 3, 17, 0))
            scan = struct.pack(">HB", 12, 3) + bytes((1, 0, 2, 0, 3, 0, 0, 63, 0))
            return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + scan + bytes(99) + b"\xff\xd9"
        compression = {"TIFF": 1, "TIFF deflate": 8}[kind]
        tags = [
            (256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, side), (279, 4, 50),
        ]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", tag, type_, 1, value) for tag, type_, value in tags)
        return struct.pack("<2sHI", b"II", 42, 108) + bytes(100) + struct.pack("<H", len(tags)) + entries + bytes(4)

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "TIFF", "TIFF deflate"])
    def test_headers_that_promise_gigapixels_cost_nothing(self, tmp_path, png_file, kind):
        (tmp_path / "a").write_bytes(self.crafted(kind, png_file))
        before = peak_memory()
        with pytest.raises(ImageError, match="over the limit of 1,000,000,000"):
            header(tmp_path / "a")
        assert "over the limit of 1,000,000,000" in problem(tmp_path / "a")
        assert "cut off" in problem(tmp_path / "a", max_pixels=10**12)
        assert peak_memory() - before < 64 * 2**20


def peak_memory() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


class TestPillowsLimit:
    def test_it_neither_warns_nor_applies_nor_changes(self, tmp_path, picture, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        for format in FORMATS:
            original = picture(format=format)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                if format != "BMP":  # which is cropped into bands, of far fewer pixels than any sensible limit
                    write(tmp_path / "a", original, format=format)
                    assert read(tmp_path / "a").pixels.shape == original.pixels.shape
        assert Image.MAX_IMAGE_PIXELS == 100

    def test_it_stays_the_same_while_threads_read(self, tmp_path, picture):
        write(tmp_path / "a.png", picture())
        write(tmp_path / "a.jpg", picture())
        seen, limit = set(), Image.MAX_IMAGE_PIXELS

        def work():
            for name in ("a.png", "a.jpg") * 10:
                read(tmp_path / name, max_pixels=10**10)
                seen.add(Image.MAX_IMAGE_PIXELS)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == {limit}
