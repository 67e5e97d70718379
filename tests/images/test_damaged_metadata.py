"""Metadata that are damaged never make a readable picture unreadable: they are left out, with one line that says so."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from famkern.images import Metadata, header, read, write

XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" %s dc:format="image/jpeg">%s</rdf:Description>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
GAIN_MAP = (
    b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:C="http://ns.google.com/photos/1.0/container/" '
    b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" hdrgm:Version="1.0"',
    b'<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="GainMap" Item:Length="9"/>'
    b"</rdf:li></rdf:Seq></C:Directory>",
)
MOTION = (
    b'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MicroVideoOffset="4711" GCamera:MotionPhoto="1" '
    b'GCamera:Portrait="1"',
    b"",
)


@pytest.fixture
def one_line(caplog):
    """The one line that was logged since the last look."""

    def line() -> str:
        (message,) = caplog.messages
        caplog.clear()
        return message

    return line


def insert(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    packed = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return jpeg[:2] + packed + jpeg[2:]


class TestPng:
    @pytest.mark.parametrize(
        ("name", "contents"),
        [
            (b"iCCP", b"name\0\0" + zlib.compress(bytes(999))[:-9]),
            (b"iCCP", b"name\0\0 no stream"),
            (b"iCCP", b"no end of the name"),
            (b"iCCP", b""),
            (b"iCCP", b"name\0\0" + zlib.compress(b"no profile")),
            (b"pHYs", b"\0\0\0\0\1"[::-1] + b"\0\0\0\1"[:3]),
            (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0 no stream"),
            (b"iTXt", b"XML:com.adobe.xmp\0"),
            (b"iTXt", b"Comment\0"),
            (b"acTL", b"\0"),
        ],
    )
    def test_chunks(self, tmp_path, png_file, caplog, name, contents):
        rows = b"\0\1\2"
        (tmp_path / "a.png").write_bytes(png_file(2, 1, 8, 0, rows, before=[(name, contents)]))
        picture = read(tmp_path / "a.png")
        assert picture.pixels[0, :, 0].tolist() == [1, 2]
        assert picture.metadata == Metadata()
        # A pHYs of this length has no unit, and counts for a shape of pixels.
        assert len(caplog.messages) == (name != b"pHYs")

    @pytest.mark.parametrize("name", [b"iCCP", b"tEXt", b"gAMA", b"eXIf", b"sRGB", b"bKGD", b"tIME"])
    def test_a_wrong_checksum(self, tmp_path, png_file, name, one_line):
        data = png_file(2, 1, 8, 0, b"\0\1\2", before=[(name, b"Title\0something")])
        at = data.index(name)
        (tmp_path / "a.png").write_bytes(data[: at + 8] + b"X" + data[at + 9 :])
        picture = read(tmp_path / "a.png")
        assert picture.pixels[0, :, 0].tolist() == [1, 2]
        assert picture.metadata == Metadata()
        assert one_line() == f"{tmp_path}/a.png: read without damaged metadata: {name.decode()} chunk (wrong checksum)"
        header(tmp_path / "a.png")  # tells nothing

    def test_libpng_says_nothing(self, tmp_path, png_file, srgb_profile, capfd):
        chunks = [
            (b"iCCP", b"name\0\0" + zlib.compress(srgb_profile)),
            (b"sBIT", b"\x63"),
            (b"hIST", b"x"),
            (b"cHRM", b"x"),
        ]
        (tmp_path / "a.png").write_bytes(png_file(2, 1, 8, 0, b"\0\1\2", before=chunks))
        read(tmp_path / "a.png")
        assert capfd.readouterr() == ("", "")


class TestJpeg:
    @pytest.mark.parametrize(
        ("segments", "told"),
        [
            ([(0xE2, b"ICC_PROFILE\0")], "colour profile"),
            ([(0xE2, b"ICC_PROFILE\0\1")], "colour profile"),
            ([(0xE2, b"ICC_PROFILE\0\1\3part")], "colour profile with parts missing"),
            ([(0xE2, b"ICC_PROFILE\0\1\1junk")], "colour profile (not an ICC profile)"),
            ([(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % GAIN_MAP + b"<")], "XMP that is no XML"),
            ([(0xE1, b"http://ns.adobe.com/xap/1.0/\0xmpNote:HasExtendedXMP=")], "extended XMP with parts missing"),
            ([(0xE0, b"JFIF\0")], None),
            ([(0xE0, b"JFIF\0\1\1\1\0\0\0\0\0\0"), (0xEE, b"Adobe"), (0xED, b"Photoshop 3.0\x008BIM")], None),
            ([(0xE1, b"Exif\0\0"), (0xE1, b"Exif"), (0xE2, b"MPF\0junk"), (0xE2, b"FPXR\0"), (0xFE, b"")], None),
        ],
    )
    def test_segments(self, tmp_path, encoded, smooth, one_line, caplog, segments, told):
        data = encoded(smooth.pixels, "JPEG")
        (tmp_path / "a.jpg").write_bytes(data)
        expected = read(tmp_path / "a.jpg").pixels
        (tmp_path / "a.jpg").write_bytes(insert(data, *segments))
        again = read(tmp_path / "a.jpg")
        assert np.array_equal(again.pixels, expected)
        assert again.metadata.icc is None
        write(tmp_path / "b.jpg", again)
        if told:
            assert told in one_line()
        assert not caplog.messages

    def test_extended_xmp_is_kept_whole_or_dropped_whole(self, tmp_path, encoded, smooth, one_line):
        extension = b"<x/>" + b" " * 99
        note = b'xmlns:N="http://ns.adobe.com/xmp/note/" N:HasExtendedXMP="0123456789ABCDEF0123456789ABCDEF"', b""
        parts = [
            b"http://ns.adobe.com/xmp/extension/\x000123456789ABCDEF0123456789ABCDEF"
            + struct.pack(">II", len(extension), at)
            + extension[at : at + 50]
            for at in (50, 0, 100)
        ]
        packet = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % note)
        data = insert(encoded(smooth.pixels, "JPEG"), packet, *((0xE1, part) for part in parts))
        (tmp_path / "a.jpg").write_bytes(data)
        whole = read(tmp_path / "a.jpg")
        assert (whole.metadata.extended_xmp, whole.metadata.xmp) == (extension, XMP % note)
        write(tmp_path / "b.png", whole)
        alone = read(tmp_path / "b.png").metadata.xmp
        assert b"HasExtendedXMP" not in alone
        assert b'dc:format="image/jpeg"' in alone
        (tmp_path / "a.jpg").write_bytes(insert(encoded(smooth.pixels, "JPEG"), packet, (0xE1, parts[0])))
        rest = read(tmp_path / "a.jpg").metadata
        assert rest.extended_xmp is None
        assert b"HasExtendedXMP" not in rest.xmp
        assert "extended XMP with parts missing" in one_line()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("mention", "kept"), [(GAIN_MAP, b""), (MOTION, b'GCamera:Portrait="1"')])
def test_xmp_mentions_nothing_that_is_not_carried_over(tmp_path, smooth, format, mention, kept):
    write(tmp_path / "a", dataclasses.replace(smooth, metadata=Metadata(xmp=XMP % mention)), format=format)
    packet = read(tmp_path / "a").metadata.xmp
    for word in (b"GainMap", b"Directory", b"hdrgm:", b"MicroVideo", b"MotionPhoto"):
        assert word not in packet.replace(b'xmlns:hdrgm="', b"")
    assert kept in packet
    assert packet.startswith(b"<?xpacket begin")
    assert b'dc:format="image/jpeg"' in packet


def test_of_an_ultra_hdr_picture_the_base_is_read(tmp_path, smooth, encoded):
    first = insert(
        encoded(smooth.pixels, "JPEG"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % GAIN_MAP),
        (0xE2, b"MPF\0II*\0\x08\0\0\0"),
        (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"),
    )
    (tmp_path / "a.jpg").write_bytes(first + encoded(255 - smooth.pixels, "JPEG"))
    again = read(tmp_path / "a.jpg")
    assert np.abs(again.pixels.astype(int) - smooth.pixels).max() < 12
    write(tmp_path / "b.jpg", again)
    written = (tmp_path / "b.jpg").read_bytes()
    for word in (b"MPF", b"21496", b"GainMap"):
        assert word not in written


class TestProfiles:
    @pytest.fixture
    def grey_profile(self) -> bytes:
        body = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
        white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
        table = struct.pack(">I", 2) + b"kTRC" + struct.pack(">II", 156, 16) + b"wtpt" + struct.pack(">II", 172, 20)
        head = struct.pack(
            ">I4sI4s4s4s12s4s28s12s", 192, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ", bytes(12), b"acsp", bytes(28),
            struct.pack(">3i", 63190, 65536, 54061),
        )  # fmt: skip
        return head.ljust(128, b"\0") + table + body + white

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("grey", [False, True])
    def test_one_of_grey_never_lands_in_a_file_of_rgb(self, tmp_path, picture, grey_profile, format, grey):
        assert ImageCms.ImageCmsProfile(io.BytesIO(grey_profile)).profile.xcolor_space == "GRAY"
        original = picture(grey=grey, metadata=Metadata(icc=grey_profile))
        write(tmp_path / "a", original, format=format)
        with Image.open(tmp_path / "a") as image:
            kept = image.info.get("icc_profile")
        assert kept == (grey_profile if grey and format != "WEBP" else None)

    def test_in_a_file_of_rgb_it_is_left_out(self, tmp_path, encoded, smooth, grey_profile, one_line):
        (tmp_path / "a.jpg").write_bytes(encoded(smooth.pixels, "JPEG", icc_profile=grey_profile))
        assert read(tmp_path / "a.jpg").metadata.icc is None
        assert "colour profile (of GRAY for RGB)" in one_line()

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("damage", [b"", b"junk", slice(0, 127), slice(0, 300), "signature"])
    def test_a_damaged_one_is_left_out(self, tmp_path, picture, encoded, srgb_profile, format, damage, one_line):
        profile = srgb_profile[damage] if isinstance(damage, slice) else damage
        if damage == "signature":
            profile = srgb_profile.replace(b"acsp", b"spca")
        if not profile:
            profile = b"\0"
        settings = {"lossless": True} if format == "WEBP" else {}
        (tmp_path / "a").write_bytes(encoded(picture().pixels, format, icc_profile=profile, **settings))
        assert read(tmp_path / "a").metadata.icc is None
        assert "colour profile" in one_line()
