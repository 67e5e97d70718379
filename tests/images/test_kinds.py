"""Kinds of files that other programs write: which are read, as what, and which are refused with a reason."""

import io
import itertools
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from famkern.images import ImageError, header, read, write

U8, U16, F32 = np.uint8, np.uint16, np.float32


class TestPng:
    @pytest.mark.parametrize(
        ("depth", "row", "expected"),
        [(1, b"\xa5", [255, 0, 255, 0, 0, 255, 0, 255]), (2, b"\x1b", [0, 85, 170, 255]), (4, b"\x1f", [17, 255])],
    )
    def test_few_bits_of_grey_become_8(self, tmp_path, png_file, depth, row, expected):
        (tmp_path / "a.png").write_bytes(png_file(len(expected), 1, depth, 0, b"\0" + row))
        picture = read(tmp_path / "a.png")
        assert picture.grey
        assert picture.pixels[0, :, 0].tolist() == expected

    @pytest.mark.parametrize("depth", [1, 8])
    def test_palettes_become_rgb(self, tmp_path, png_file, depth):
        row = b"\x40" if depth == 1 else b"\0\1"
        data = png_file(2, 1, depth, 3, b"\0" + row, before=[(b"PLTE", bytes((1, 2, 3, 4, 5, 6)))])
        (tmp_path / "a.png").write_bytes(data)
        picture = read(tmp_path / "a.png")
        assert not picture.grey
        assert picture.alpha is None
        assert picture.pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]

    @pytest.mark.parametrize(
        ("depth", "colour", "row", "chunks", "pixels", "alpha"),
        [
            (8, 3, b"\0\1", [(b"PLTE", bytes(range(6))), (b"tRNS", b"\x80")], [[0, 1, 2], [3, 4, 5]], [128, 255]),
            (8, 0, b"\7\x08", [(b"tRNS", b"\0\7")], [[7] * 3, [8] * 3], [0, 255]),
            (8, 2, bytes(range(6)), [(b"tRNS", b"\0\0\0\1\0\2")], [[0, 1, 2], [3, 4, 5]], [0, 255]),
            (16, 0, b"\1\0\2\0", [(b"tRNS", b"\2\0")], [[256] * 3, [512] * 3], [65535, 0]),
        ],
    )
    def test_transparent_colours_become_alpha(self, tmp_path, png_file, depth, colour, row, chunks, pixels, alpha):
        (tmp_path / "a.png").write_bytes(png_file(2, 1, depth, colour, b"\0" + row, before=chunks))
        picture = read(tmp_path / "a.png")
        assert header(tmp_path / "a.png").channels == (2 if colour == 0 else 4)
        assert picture.pixels[0].tolist() == pixels
        assert picture.alpha[0].tolist() == alpha

    def test_interlaced(self, tmp_path, picture, png_file):
        pixels = picture(13, 11).pixels
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        rows = [row for y, x, dy, dx in passes for row in pixels[y::dy, x::dx]]
        data = png_file(11, 13, 8, 2, b"".join(b"\0" + row.tobytes() for row in rows), interlaced=1)
        (tmp_path / "a.png").write_bytes(data)
        assert np.array_equal(read(tmp_path / "a.png").pixels, pixels)

    def test_animated_is_refused(self, tmp_path, picture, encoded):
        frames = [Image.fromarray(picture().pixels), Image.fromarray(255 - picture().pixels)]
        data = encoded(picture().pixels, "PNG", save_all=True, append_images=frames)
        (tmp_path / "a.png").write_bytes(data)
        for open_ in (header, read):
            with pytest.raises(ImageError, match="animated"):
                open_(tmp_path / "a.png")


class TestJpeg:
    @pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": "4:2:0"}, {"quality": 5}])
    @pytest.mark.parametrize("shape", [(1, 1, 3), (61, 67, 3), (61, 67)])
    def test_pixels_are_those_of_libjpeg(self, tmp_path, picture, encoded, settings, shape):
        samples = picture(*shape[:2]).pixels if len(shape) == 3 else picture(*shape).pixels[..., 0]
        data = encoded(np.ascontiguousarray(samples), "JPEG", **settings)
        (tmp_path / "a.jpg").write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        again = read(tmp_path / "a.jpg")
        assert np.array_equal(again.pixels, expected)
        assert again.grey == (len(shape) == 2)

    def test_rgb_without_transform(self, tmp_path, smooth):
        data = imagecodecs.jpeg8_encode(smooth.pixels, level=100, colorspace="RGB", outcolorspace="RGB")
        (tmp_path / "a.jpg").write_bytes(data)
        assert np.abs(read(tmp_path / "a.jpg").pixels.astype(int) - smooth.pixels).max() <= 2

    def test_of_a_multi_picture_file_the_first_is_read(self, tmp_path, smooth, encoded):
        second = Image.fromarray(255 - smooth.pixels)
        (tmp_path / "a.jpg").write_bytes(encoded(smooth.pixels, "MPO", save_all=True, append_images=[second]))
        with Image.open(tmp_path / "a.jpg") as image:
            assert (image.format, image.n_frames) == ("MPO", 2)
        picture = read(tmp_path / "a.jpg")
        assert picture.format == "JPEG"
        assert np.abs(picture.pixels.astype(int) - smooth.pixels).max() < 12

    def test_data_behind_the_picture_do_not_matter(self, tmp_path, smooth):
        write(tmp_path / "a.jpg", smooth)
        expected = read(tmp_path / "a.jpg").pixels
        with open(tmp_path / "a.jpg", "ab") as file:
            file.write(b"\xff\xd8 more" * 99)
        assert np.array_equal(read(tmp_path / "a.jpg").pixels, expected)


class TestInks:
    def test_cmyk_jpeg_without_a_profile(self, tmp_path, encoded):
        inks = np.kron(np.random.default_rng(0).integers(0, 256, (4, 5, 4)), np.ones((8, 8, 1))).astype(U8)
        data = encoded(inks, "JPEG", mode="CMYK", quality=100)
        (tmp_path / "a.jpg").write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        picture = read(tmp_path / "a.jpg")
        assert header(tmp_path / "a.jpg").channels == 3
        assert np.abs(picture.pixels.astype(int) - expected).max() <= 1

    def test_ycck_jpeg(self, tmp_path):
        inks = np.full((16, 16, 4), (30, 60, 90, 20), U8)
        data = imagecodecs.jpeg8_encode(255 - inks, level=100, colorspace="CMYK", outcolorspace="YCCK")
        (tmp_path / "a.jpg").write_bytes(data)
        expected = (1 - np.array((30, 60, 90)) / 255) * (1 - 20 / 255) * 255
        assert np.abs(read(tmp_path / "a.jpg").pixels - expected).max() < 3

    @pytest.mark.parametrize("kind", ["jpeg", "tiff8", "tiff16"])
    def test_an_embedded_profile_is_applied_and_then_dropped(self, tmp_path, encoded, inks_profile, kind):
        inks = np.kron(np.random.default_rng(0).integers(0, 256, (4, 5, 4)), np.ones((8, 8, 1))).astype(U8)
        expected = np.asarray(
            ImageCms.profileToProfile(
                Image.frombytes("CMYK", (40, 32), inks),
                io.BytesIO(inks_profile),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        )
        if kind == "jpeg":
            data = encoded(inks, "JPEG", mode="CMYK", quality=100, icc_profile=inks_profile)
            (tmp_path / "a").write_bytes(data)
        else:
            samples = inks if kind == "tiff8" else inks.astype(U16) * 257
            tifffile.imwrite(tmp_path / "a", samples, photometric="separated", iccprofile=inks_profile)
        picture = read(tmp_path / "a")
        white = 257 if kind == "tiff16" else 1
        assert picture.pixels.dtype == (U16 if kind == "tiff16" else U8)
        assert np.abs(picture.pixels / white - expected).max() <= 1.5
        assert picture.metadata.icc is None

    @pytest.mark.parametrize("kind", ["jpeg", "tiff"])
    @pytest.mark.parametrize("damage", ["other kind", "junk", "cut off", "no table"])
    def test_a_profile_that_does_not_fit_is_left_out(
        self, tmp_path, encoded, srgb_profile, inks_profile, damage, kind, caplog
    ):
        profile = {
            "other kind": srgb_profile,
            "junk": b"junk" * 99,
            "cut off": inks_profile[:200],
            "no table": inks_profile.replace(b"A2B0", b"B2A9"),
        }[damage]
        inks = np.full((8, 8, 4), 90, U8)
        for name, icc in (("a", profile), ("b", None)):
            if kind == "jpeg":
                (tmp_path / name).write_bytes(encoded(inks, "JPEG", mode="CMYK", icc_profile=icc))
            else:
                tifffile.imwrite(tmp_path / name, inks, photometric="separated", iccprofile=icc)
        assert np.array_equal(read(tmp_path / "a").pixels, read(tmp_path / "b").pixels)
        (line,) = caplog.messages
        assert line.startswith(f"{tmp_path}/a: read without damaged metadata: colour profile")


class TestTiff:
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma", "webp", "jpeg2000"])
    @pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}, {"rowsperstrip": 61}])
    def test_compressions_and_layouts(self, tmp_path, picture, compression, layout):
        expected = picture().pixels
        args = {"lossless": True} if compression == "webp" else {"level": 0} if compression == "jpeg2000" else None
        tifffile.imwrite(
            tmp_path / "a", expected, photometric="rgb", compression=compression, compressionargs=args, **layout
        )
        assert np.array_equal(read(tmp_path / "a").pixels, expected)

    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("bigtiff", [False, True])
    @pytest.mark.parametrize("predictor", [False, True])
    @pytest.mark.parametrize("planar", [False, True])
    @pytest.mark.parametrize("dtype", [U8, U16, F32])
    def test_depths_orders_and_planes(self, tmp_path, picture, dtype, planar, predictor, bigtiff, byteorder):
        original = picture(dtype=dtype, alpha=True)
        samples = np.dstack([original.pixels, original.alpha])
        tifffile.imwrite(
            tmp_path / "a",
            np.moveaxis(samples, -1, 0) if planar else samples,
            photometric="rgb",
            planarconfig="separate" if planar else "contig",
            compression="zlib",
            predictor=predictor,
            bigtiff=bigtiff,
            byteorder=byteorder,
            extrasamples=["unassalpha"],
        )
        again = read(tmp_path / "a")
        assert np.array_equal(again.pixels, original.pixels)
        assert np.array_equal(again.alpha, original.alpha)
        write(tmp_path / "b.tif", again)
        assert np.array_equal(read(tmp_path / "b.tif").alpha, original.alpha)

    @pytest.mark.parametrize("dtype", [U8, U16, F32])
    def test_colours_multiplied_by_alpha_are_divided_by_it(self, tmp_path, dtype):
        white = 1 if dtype == F32 else np.iinfo(dtype).max
        straight = np.array([[[0.2, 0.4, 1.0], [0.5, 0.5, 0.5], [0, 0, 0]]])
        alpha = np.array([[0.5, 1.0, 0.0]])
        samples = np.dstack([straight * alpha[..., None], alpha]) * white
        samples = samples.astype(dtype) if dtype == F32 else np.rint(samples).astype(dtype)
        tifffile.imwrite(tmp_path / "a", samples, photometric="rgb", extrasamples=["assocalpha"])
        again = read(tmp_path / "a")
        assert np.abs(again.pixels / white - straight).max() < (0.005 if dtype == U8 else 1e-4)
        assert np.array_equal(again.alpha, samples[..., 3])

    @pytest.mark.parametrize("dtype", [U8, U16])
    def test_white_is_zero(self, tmp_path, picture, dtype):
        original = picture(dtype=dtype, grey=True)
        tifffile.imwrite(tmp_path / "a", np.iinfo(dtype).max - original.pixels[..., 0], photometric="miniswhite")
        again = read(tmp_path / "a")
        assert again.grey
        assert np.array_equal(again.pixels, original.pixels)

    @pytest.mark.parametrize(("photometric", "on"), [("minisblack", 255), ("miniswhite", 0)])
    def test_one_bit(self, tmp_path, picture, photometric, on):
        bits = picture().pixels[..., 0] > 127
        tifffile.imwrite(tmp_path / "a", bits, photometric=photometric)
        assert np.array_equal(read(tmp_path / "a").pixels[..., 1], np.where(bits, on, 255 - on))

    def test_palette(self, tmp_path, picture):
        index = picture().pixels[..., 0]
        palette = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(U8)
        tifffile.imwrite(tmp_path / "a", index, photometric="palette", colormap=palette.astype(U16) * 257)
        again = read(tmp_path / "a")
        assert not again.grey
        assert np.array_equal(again.pixels, np.moveaxis(palette[:, index], 0, -1))

    def test_jpeg_compression(self, tmp_path, smooth):
        tifffile.imwrite(tmp_path / "a", smooth.pixels, photometric="rgb", compression="jpeg", tile=(32, 32))
        again = read(tmp_path / "a")
        assert not again.lossless
        assert np.abs(again.pixels.astype(int) - smooth.pixels).max() < 12

    def test_several_pages_are_refused_and_smaller_versions_left_out(self, tmp_path, picture):
        pixels = picture().pixels
        with tifffile.TiffWriter(tmp_path / "a") as file:
            file.write(pixels, photometric="rgb", metadata=None)
            file.write(pixels[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        assert np.array_equal(read(tmp_path / "a").pixels, pixels)
        with tifffile.TiffWriter(tmp_path / "a") as file:
            for _ in range(2):
                file.write(pixels, photometric="rgb", metadata=None)
        with pytest.raises(ImageError, match="several pictures"):
            header(tmp_path / "a")

    def test_a_stack_behind_one_page_is_refused(self, tmp_path):
        stack = np.zeros((5, 8, 9), U8)
        tifffile.imwrite(tmp_path / "a", stack, photometric="minisblack", truncate=True)
        tifffile.imwrite(tmp_path / "b", stack, imagej=True)
        for name in "ab":
            with pytest.raises(ImageError, match="several pictures"):
                read(tmp_path / name)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-6, 1.0001, 255.0])
    @pytest.mark.parametrize("grey", [False, True])
    def test_float_samples_must_be_in_range(self, tmp_path, picture, grey, value):
        pixels = picture(dtype=F32).pixels
        pixels[5, 6, 0] = value
        tifffile.imwrite(tmp_path / "a", pixels[..., 0] if grey else pixels, photometric=None if grey else "rgb")
        with pytest.raises(ImageError, match=r"finite and in \[0, 1\]; scale or clip"):
            read(tmp_path / "a")

    @pytest.mark.parametrize(
        ("samples", "settings"),
        [
            (np.zeros((4, 4, 3), np.float64), {"photometric": "rgb"}),
            (np.zeros((4, 4, 3), np.float16), {"photometric": "rgb"}),
            (np.zeros((4, 4, 3), np.int16), {"photometric": "rgb"}),
            (np.zeros((4, 4, 3), np.uint32), {"photometric": "rgb"}),
            (np.zeros((4, 4, 3), U8), {"photometric": "cielab"}),
            (np.zeros((4, 4), U8), {"photometric": "cfa"}),
            (np.zeros((4, 4), U16), {"photometric": "palette", "colormap": np.zeros((3, 65536), U16)}),
        ],
    )
    def test_other_kinds_are_refused(self, tmp_path, samples, settings):
        tifffile.imwrite(tmp_path / "a", samples, **settings)
        with pytest.raises(ImageError, match="not supported; convert it"):
            read(tmp_path / "a")


class TestWebp:
    @pytest.mark.parametrize("settings", [{"lossless": True}, {"quality": 80}])
    @pytest.mark.parametrize("channels", [3, 4])
    def test_pixels_are_those_of_libwebp(self, tmp_path, picture, encoded, channels, settings):
        original = picture(alpha=True)
        data = encoded(np.dstack([original.pixels, original.alpha])[..., :channels].copy(), "WEBP", **settings)
        (tmp_path / "a").write_bytes(data)
        again = read(tmp_path / "a")
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(again.pixels, np.asarray(image.convert("RGB")))
            if channels == 4:
                assert np.array_equal(again.alpha, np.asarray(image.getchannel("A")))
        assert again.lossless == ("lossless" in settings)

    def test_animated_is_refused(self, tmp_path, picture, encoded):
        frames = [Image.fromarray(255 - picture().pixels)]
        (tmp_path / "a").write_bytes(encoded(picture().pixels, "WEBP", save_all=True, append_images=frames))
        for open_ in (header, read):
            with pytest.raises(ImageError, match="animated"):
                open_(tmp_path / "a")


class TestBmp:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
    def test_modes(self, tmp_path, picture, mode):
        with Image.fromarray(picture().pixels) as image:
            image.convert(mode).save(tmp_path / "a.bmp")
        with Image.open(tmp_path / "a.bmp") as image:
            expected = np.asarray(image.convert("RGB"))
        again = read(tmp_path / "a.bmp")
        assert again.grey == (mode in ("1", "L"))
        assert np.array_equal(again.pixels, expected)

    def test_alpha(self, tmp_path, picture):
        original = picture(4, 5, alpha=True)
        # A version 4 header, whose masks tell where red, green, blue and alpha lie; rows from the top.
        masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
        header_ = struct.pack("<IiiHHIIiiII", 108, 5, -4, 1, 32, 3, 0, 0, 0, 0, 0) + masks + b"BGRs" + bytes(48)
        rows = np.dstack([original.pixels, original.alpha]).tobytes()
        data = struct.pack("<2sIII", b"BM", 14 + len(header_) + len(rows), 0, 14 + len(header_)) + header_ + rows
        (tmp_path / "a.bmp").write_bytes(data)
        again = read(tmp_path / "a.bmp")
        assert np.array_equal(again.pixels, original.pixels)
        assert np.array_equal(again.alpha, original.alpha)


def test_content_decides_and_not_the_suffix(tmp_path, picture):
    for format, suffix in itertools.product(("PNG", "TIFF", "BMP", "WEBP"), (".jpg", ".png", "", ".txt")):
        original = picture(format=format)
        write(tmp_path / f"a{suffix}", original, format=format)
        again = read(tmp_path / f"a{suffix}")
        assert again.format == format
        assert np.array_equal(again.pixels, original.pixels)


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO", "JPEG2000", "PDF", "DDS"])
def test_formats_off_the_list_are_refused_whatever_their_suffix(tmp_path, smooth, encoded, format):
    (tmp_path / "a.png").write_bytes(encoded(smooth.pixels, format))
    for open_ in (header, read):
        with pytest.raises(ImageError, match=r"not a JPEG, .* image; convert"):
            open_(tmp_path / "a.png")


def test_psd_is_refused(tmp_path):
    (tmp_path / "a.psd").write_bytes(b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 1, 1, 8, 3) + bytes(20))
    with pytest.raises(ImageError, match="not a JPEG"):
        read(tmp_path / "a.psd")
