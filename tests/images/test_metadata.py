"""What a file says about its pixels is kept; the orientation is applied."""

import dataclasses
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

from famkern.images import ImageError, Metadata, Picture, exif, header, png, read, tiff, write

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/><dc:t>\xc3\xbc</dc:t></x:xmpmeta>'
XMP_ELEMENT = b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>"
ALL = ["JPEG", "PNG", "WEBP", "TIFF", "BMP"]
WITH_EXIF = ["JPEG", "PNG", "WEBP", "TIFF"]


def upright_by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def source_of_each_pixel(height: int, width: int, orientation: int) -> np.ndarray:
    """Of each upright pixel, the index of the stored pixel it shows."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(np.arange(height * width, dtype=np.float32).reshape(height, width)).save(file, "TIFF", exif=tags)
    return upright_by_pillow(file.getvalue()).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
class TestOrientation:
    @pytest.mark.parametrize(
        ("format", "alpha"), [(f, alpha) for f in WITH_EXIF for alpha in (False, True) if not (alpha and f == "JPEG")]
    )
    def test_pixels_are_upright_and_the_tag_is_reset(
        self, tmp_path, picture, encoded, exif_block, exif_values, format, alpha, orientation
    ):
        stored = picture(alpha=alpha)
        samples = np.dstack([stored.pixels, stored.alpha]) if alpha else stored.pixels
        settings = {"lossless": True, "exact": True} if format == "WEBP" else {}
        data = encoded(samples, format, exif=b"Exif\0\0" + exif_block(orientation), **settings)
        (tmp_path / "a").write_bytes(data)
        expected = upright_by_pillow(data)

        found, upright = header(tmp_path / "a"), read(tmp_path / "a")
        assert (found.height, found.width) == upright.pixels.shape[:2] == expected.shape[:2]
        assert np.array_equal(upright.pixels, expected[..., :3])
        if alpha:
            assert np.array_equal(upright.alpha, expected[..., 3])
        assert exif_values(upright.metadata.exif)["main"].get(ExifTags.Base.Orientation, 1) == 1

        write(tmp_path / "b", upright, format=format)
        again = read(tmp_path / "b")
        assert again.pixels.shape == upright.pixels.shape
        if format != "JPEG":
            assert np.array_equal(again.pixels, upright.pixels)

    def test_16_bit_png(self, tmp_path, picture, exif_block, orientation):
        stored = picture(dtype=np.uint16, alpha=True, metadata=Metadata(exif=exif_block(orientation)))
        write(tmp_path / "a.png", stored)
        upright, moved = read(tmp_path / "a.png"), source_of_each_pixel(61, 67, orientation)
        assert np.array_equal(upright.alpha, stored.alpha.ravel()[moved])
        assert np.array_equal(upright.pixels, stored.pixels.reshape(-1, 3)[moved])

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_tiff_of_every_depth(self, tmp_path, picture, dtype, orientation):
        stored = picture(dtype=dtype)
        tifffile.imwrite(
            tmp_path / "a.tif", stored.pixels, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]
        )
        moved = source_of_each_pixel(61, 67, orientation)
        assert np.array_equal(read(tmp_path / "a.tif").pixels, stored.pixels.reshape(-1, 3)[moved])

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("template", [XMP, XMP_ELEMENT])
    def test_it_is_reset_in_xmp_and_in_either_byte_order(
        self, tmp_path, smooth, encoded, exif_block, exif_values, template, order, orientation
    ):
        data = encoded(
            smooth.pixels, "JPEG", exif=b"Exif\0\0" + exif_block(orientation, order), xmp=template % orientation
        )
        (tmp_path / "a.jpg").write_bytes(data)
        metadata = read(tmp_path / "a.jpg").metadata
        assert metadata.xmp == template % 1
        assert exif_values(metadata.exif)["main"][ExifTags.Base.Orientation] == 1


@pytest.mark.parametrize("format", ALL)
def test_metadata_are_kept_through_any_number_of_files(tmp_path, smooth, exif_block, exif_values, srgb_profile, format):
    metadata = Metadata(
        exif=exif_block(artist="J\u00fcrgen".encode().decode("latin-1")),
        icc=srgb_profile,
        xmp=XMP % 1,
        photoshop=b"8BIM\x04\x04\0\0\0\0\0\5\x1c\2\x78\0\0\0",
        dpi=(240.0, 240.0),
        comment=b"a comment",
    )
    path = tmp_path / "a"
    picture = dataclasses.replace(smooth, metadata=metadata)
    for _ in range(3):
        write(path, picture, format=format)
        picture = read(path)
    kept = picture.metadata

    assert (kept.icc, kept.xmp) == ((srgb_profile, XMP % 1) if format != "BMP" else (None, None))
    assert kept.photoshop == (metadata.photoshop if format in ("JPEG", "TIFF") else None)
    assert kept.comment == (metadata.comment if format in ("JPEG", "PNG") else None)
    if format != "WEBP":  # it has no place for it
        assert kept.dpi == pytest.approx((240, 240), abs=0.02)
    if format == "BMP":
        assert kept.exif is None
        return
    before, after = exif_values(metadata.exif), exif_values(kept.exif)
    before["main"].pop(ExifTags.Base.Orientation)
    after["main"].pop(ExifTags.Base.Orientation, None)
    for values in (before, after):  # of the size, which read() sets right
        assert values["exif"].pop(ExifTags.Base.ExifImageWidth)
        assert values["exif"].pop(ExifTags.Base.ExifImageHeight)
    assert before == after


@pytest.mark.parametrize("target", WITH_EXIF)
@pytest.mark.parametrize("source", WITH_EXIF)
def test_metadata_cross_from_format_to_format(tmp_path, smooth, exif_block, exif_values, srgb_profile, source, target):
    metadata = Metadata(exif=exif_block(order=">"), icc=srgb_profile, xmp=XMP % 1)
    write(tmp_path / "a", dataclasses.replace(smooth, metadata=metadata), format=source)
    write(tmp_path / "b", read(tmp_path / "a"), format=target)
    kept = read(tmp_path / "b").metadata
    values = exif_values(kept.exif)
    assert (kept.icc, kept.xmp) == (srgb_profile, XMP % 1)
    assert values["main"][ExifTags.Base.Make] == "Camera & Co"
    assert values["exif"][ExifTags.Base.MakerNote] == b"\1\2secret\3"
    assert float(values["exif"][ExifTags.Base.ExposureTime]) == 0.004
    assert values["gps"][ExifTags.GPS.GPSLatitude] == (47.0, 30.0, 1.5)


def test_exif_states_the_true_size_and_links_to_no_thumbnail(tmp_path, smooth, encoded, exif_block, exif_values):
    block = bytearray(exif_block(orientation=6))
    (entries,) = struct.unpack_from("<H", block, 8)
    thumbnail = struct.pack("<HHHI4sI", 1, 0x0103, 3, 1, struct.pack("<HH", 6, 0), 0)
    struct.pack_into("<I", block, 8 + 2 + 12 * entries, len(block))
    block += thumbnail
    assert exif_values(bytes(block))["thumbnail"]

    (tmp_path / "a.jpg").write_bytes(encoded(smooth.pixels, "JPEG", exif=b"Exif\0\0" + bytes(block)))
    values = exif_values(read(tmp_path / "a.jpg").metadata.exif)
    assert values["thumbnail"] == {}
    height, width = smooth.pixels.shape[:2]
    assert values["exif"][ExifTags.Base.ExifImageWidth] == height
    assert values["exif"][ExifTags.Base.ExifImageHeight] == width


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", [b"junk", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_is_carried_over_as_it_is(tmp_path, smooth, format, block):
    write(tmp_path / "a", dataclasses.replace(smooth, metadata=Metadata(exif=block)), format=format)
    assert read(tmp_path / "a").metadata.exif == block


@pytest.mark.parametrize("kind", [1, 3, 7, 11, 12])
def test_exif_values_of_unexpected_types_do_no_harm(tmp_path, smooth, kind):
    tags = (274, 282, 283, 296, 34665, 34853)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, 0x01010101) for tag in tags)
    block = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    for format in ("JPEG", "PNG", "WEBP"):
        write(tmp_path / "a", dataclasses.replace(smooth, metadata=Metadata(exif=block)), format=format)
        assert read(tmp_path / "a").pixels.shape == smooth.pixels.shape
        write(tmp_path / "b.tif", read(tmp_path / "a"))
        assert read(tmp_path / "b.tif").pixels.shape == smooth.pixels.shape


def test_exif_that_refers_to_itself_over_and_over_is_not_read_over_and_over():
    # 5000 tags, each with the whole block of 60 KB for its value: 300 MB if all were read.
    entries = b"".join(struct.pack("<HHII", tag, 7, 60_000, 0) for tag in range(300, 5300))
    block = struct.pack("<2sHIH", b"II", 42, 8, 5000) + entries + bytes(4)
    values = exif.parse(io.BytesIO(block)).main.values()
    assert sum(len(value.data) for value in values) <= len(block)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_text_and_colour_chunks_are_copied(tmp_path, picture, png_file, dtype):
    colour = (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *range(8)))
    latin = (b"tEXt", b"Title\0caf\xe9")
    packed = (b"zTXt", b"Description\0\0" + zlib.compress(b"long " * 99))
    utf8 = (b"iTXt", b"Author\0\0\0de\0Autor\0J\xc3\xbcrgen")
    comment = (b"tEXt", b"Comment\0caf\xe9")
    depth = 8 * np.dtype(dtype).itemsize
    rows = b"\0" + bytes(3 * depth // 8)
    data = png_file(1, 1, depth, 2, rows, before=[*colour, latin], after=[packed, utf8, comment])
    (tmp_path / "a.png").write_bytes(data)
    write(tmp_path / "b.png", read(tmp_path / "a.png"))
    again = read(tmp_path / "b.png")
    assert again.metadata.chunks == (*colour, latin, packed, utf8, comment)
    assert again.metadata.comment == "café".encode()

    write(tmp_path / "c.jpg", dataclasses.replace(again, pixels=again.pixels.astype(np.uint8)))
    assert read(tmp_path / "c.jpg").metadata.comment == "café".encode()


def test_png_xmp_and_profile_may_be_packed_and_behind_the_pixels(tmp_path, png_file, srgb_profile, exif_block):
    xmp = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP % 6))
    sideways = (b"eXIf", exif_block(6))
    profile = (b"iCCP", b"name\0\0" + zlib.compress(srgb_profile))
    (tmp_path / "a.png").write_bytes(png_file(2, 1, 8, 0, b"\0\1\2", before=[profile], after=[xmp, sideways]))
    again = read(tmp_path / "a.png")
    assert again.pixels[:, :, 0].tolist() == [[1], [2]]
    assert (again.metadata.icc, again.metadata.xmp) == (srgb_profile, XMP % 1)


def test_a_chunk_that_unpacks_without_end_is_left_out(tmp_path, png_file, monkeypatch, caplog):
    monkeypatch.setattr(png, "MAX_UNPACKED", 2**20)
    bomb = (b"iCCP", b"name\0\0" + zlib.compress(bytes(2**20 + 1)))
    (tmp_path / "a.png").write_bytes(png_file(1, 1, 8, 0, b"\0\1", before=[bomb]))
    assert read(tmp_path / "a.png").metadata.icc is None
    assert "over 1 MiB" in caplog.text


@pytest.mark.parametrize("field", ["exif", "xmp", "comment"])
def test_what_jpeg_cannot_hold_is_refused_and_not_dropped(tmp_path, smooth, field):
    big = Metadata(**{field: b"II*\0" + bytes(66_000)})
    with pytest.raises(ImageError, match=r"a\.jpg: .*66,004 bytes; JPEG holds .*; write PNG, WebP or TIFF"):
        write(tmp_path / "a.jpg", dataclasses.replace(smooth, metadata=big))
    assert not list(tmp_path.iterdir())


def test_long_metadata_are_spread_over_jpeg_segments(tmp_path, smooth, srgb_profile):
    profile = srgb_profile + bytes(range(256)) * 600
    extension = b"<x:xmpmeta>" + b"long " * 40_000 + b"</x:xmpmeta>"
    note = b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"'
    guid = hashlib.md5(extension).hexdigest().upper().encode()
    long = Metadata(
        icc=len(profile).to_bytes(4, "big") + profile[4:],
        photoshop=b"8BIM" + bytes(range(256)) * 600,
        xmp=b"<a " + note % guid + b"/>",
        extended_xmp=extension,
    )
    write(tmp_path / "a.jpg", dataclasses.replace(smooth, metadata=long))
    assert read(tmp_path / "a.jpg").metadata == long


def test_geotiff_tags_are_kept_and_layout_descriptions_are_not(tmp_path, smooth):
    scale = (0.5, 0.5, 0.0)
    tags = [(33550, 12, 3, scale, True), (34737, 2, 0, "WGS 84|", True)]
    tifffile.imwrite(tmp_path / "a.tif", smooth.pixels, photometric="rgb", extratags=tags)
    write(tmp_path / "b.tif", read(tmp_path / "a.tif"))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        page = file.pages.first
        assert page.tags[33550].value == scale
        assert page.tags[34737].value == "WGS 84|"
        assert not page.description


def test_tiff_exif_lies_in_directories_of_its_own(tmp_path, smooth, exif_block):
    write(tmp_path / "a.tif", dataclasses.replace(smooth, metadata=Metadata(exif=exif_block(artist="J\xfcrgen"))))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages.first.tags
        assert tags[34665].value["MakerNote"] == b"\1\2secret\3"
        assert tags[34853].value["GPSLatitudeRef"] == "N"
        assert tags[271].value == "Camera & Co"


def test_nothing_is_made_up(tmp_path, smooth):
    for format in ALL:
        write(tmp_path / "a", smooth, format=format)
        assert read(tmp_path / "a").metadata == Metadata()


def test_a_grey_picture_keeps_its_profile(tmp_path, picture, srgb_profile):
    original = picture(grey=True, metadata=Metadata(icc=srgb_profile))
    for format in ("PNG", "TIFF", "JPEG"):
        write(tmp_path / "a", original, format=format)
        assert read(tmp_path / "a").metadata.icc == srgb_profile


def test_picture_is_a_plain_value():
    picture = Picture(np.zeros((1, 1, 3), np.uint8))
    assert picture.metadata == Metadata()


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_in_a_bigtiff(tmp_path, smooth, exif_block, exif_values, monkeypatch, order):
    monkeypatch.setattr(tiff, "MAX_CLASSIC_BYTES", 0)
    block = exif_block(order=order)
    write(tmp_path / "a.tif", dataclasses.replace(smooth, metadata=Metadata(exif=block)))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        assert file.pages.first.tags[34665].value["MakerNote"] == b"\1\2secret\3"
    again = read(tmp_path / "a.tif")
    assert np.array_equal(again.pixels, smooth.pixels)
    before, after = exif_values(block), exif_values(again.metadata.exif)
    assert after["gps"] == before["gps"]
    assert after["main"][ExifTags.Base.Make] == before["main"][ExifTags.Base.Make]
