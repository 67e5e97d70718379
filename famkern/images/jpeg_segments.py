"""The segments of a JPEG before its first scan, and what they say.

    FF D8 | FF marker, length (2 bytes, itself included), contents | ... | FF DA ..., scans | FF D9

Metadata are in APP segments: JFIF's density in APP0, EXIF and XMP in APP1, colour profiles in APP2, Photoshop's resources
in APP13. What does not fit in one segment is spread over several, numbered: a part that is lost makes the rest worthless.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from .exif import MARK
from .picture import fault

MAX_SEGMENT = 65533
CUT_OFF = "the JPEG file is cut off or damaged; get another copy of it"

EXIF, XMP, PHOTOSHOP = MARK, b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
EXTENSION = (
    b"http://ns.adobe.com/xmp/extension/\0"  # then the packet's MD5 in 32 letters, its length, this part's offset
)
PROFILE = b"ICC_PROFILE\0"  # then this part's number from 1, and how many there are

START_OF_SCAN, END_OF_IMAGE, COMMENT = 0xDA, 0xD9, 0xFE
STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


@dataclass
class Segments:
    """The frame's header, and the segments of metadata as they are."""

    frame: int = 0  # its marker: 0 where there is none
    precision: int = 0
    width: int = 0
    height: int = 0
    components: int = 0
    in_scan: int = 0  # components of the first scan
    scan: int = 0  # where its data begin
    density: tuple[int, int, int] | None = None  # unit, horizontal, vertical
    comment: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    extensions: list[bytes] = field(default_factory=list)
    profiles: list[bytes] = field(default_factory=list)
    photoshop: list[bytes] = field(default_factory=list)

    def profile(self) -> bytes | None:
        """The ICC profile; None if there is none.

        Raises:
            ValueError: if parts are missing.
        """
        if not self.profiles:
            return None
        parts = {part[:1]: part[2:] for part in self.profiles if len(part) > 2}
        count = self.profiles[0][1:2]
        if not count or {number[0] for number in parts} != set(range(1, count[0] + 1)):
            raise ValueError("colour profile with parts missing")
        return b"".join(parts[number] for number in sorted(parts))

    def extended_xmp(self) -> bytes | None:
        """The extension that the XMP packet names, whole; None if it names none.

        Raises:
            ValueError: if parts are missing.
        """
        content = bytearray()
        named = [part for part in self.extensions if self.xmp and part[:32] in self.xmp]
        for part in sorted(named, key=lambda part: part[36:40]):
            length, offset = struct.unpack(">II", part[32:40])
            if offset != len(content) or offset + len(part) - 40 > length:
                break
            content += part[40:]
            if len(content) == length:
                return bytes(content)
        if named or (self.xmp and b"HasExtendedXMP" in self.xmp):
            raise ValueError("extended XMP with parts missing")
        return None


def read(file: BinaryIO) -> Segments:
    """All up to the first scan.

    Raises:
        ImageError: if there is no frame, or no scan.
    """
    found = Segments()
    file.seek(2)
    for marker, contents in _segments(file):
        if marker in FRAMES and not found.frame:
            found.frame = marker
            found.precision, found.height, found.width, found.components = struct.unpack(">BHHB", contents[:6])
        elif marker == START_OF_SCAN:
            found.in_scan, found.scan = contents[0], file.tell()
        elif marker == COMMENT:
            found.comment = contents if found.comment is None else found.comment
        elif marker == 0xE0 and contents.startswith(b"JFIF\0") and len(contents) >= 12:
            found.density = struct.unpack(">BHH", contents[7:12])
        elif marker == 0xE1 and contents.startswith(EXIF):
            found.exif = contents.removeprefix(EXIF) if found.exif is None else found.exif + contents.removeprefix(EXIF)
        elif marker == 0xE1 and contents.startswith(XMP) and found.xmp is None:
            found.xmp = contents.removeprefix(XMP)
        elif marker == 0xE1 and contents.startswith(EXTENSION) and len(contents) > len(EXTENSION) + 40:
            found.extensions.append(contents.removeprefix(EXTENSION))
        elif marker == 0xE2 and contents.startswith(PROFILE):
            found.profiles.append(contents.removeprefix(PROFILE))
        elif marker == 0xED and contents.startswith(PHOTOSHOP):
            found.photoshop.append(contents.removeprefix(PHOTOSHOP))
    if not (found.frame and found.scan):
        raise fault(file.name, CUT_OFF)
    return found


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Markers and contents, up to the header of the first scan. What stands between segments is skipped, as by libjpeg."""
    marker = 0
    while marker != START_OF_SCAN:
        byte = file.read(1)
        while byte and byte != b"\xff":
            byte = file.read(1)
        while byte == b"\xff":
            byte = file.read(1)
        marker = byte[0] if byte else END_OF_IMAGE
        if marker == END_OF_IMAGE:
            raise fault(file.name, CUT_OFF)
        if marker == 0 or marker in STANDALONE:
            continue
        (length,) = struct.unpack(">H", file.read(2).rjust(2, b"\0"))
        contents = file.read(length - 2) if length >= 2 else b""
        if len(contents) != length - 2:
            raise fault(file.name, CUT_OFF)
        yield marker, contents


def photoshop(contents: bytes) -> Iterator[bytes]:
    """Segments with Photoshop's resources."""
    room = MAX_SEGMENT - len(PHOTOSHOP)
    for at in range(0, len(contents), room):
        yield _segment(0xED, PHOTOSHOP + contents[at : at + room])


def extension(contents: bytes) -> Iterator[bytes]:
    """Segments with extended XMP."""
    name = EXTENSION + hashlib.md5(contents, usedforsecurity=False).hexdigest().upper().encode()
    room = MAX_SEGMENT - len(name) - 8
    for at in range(0, len(contents), room):
        yield _segment(0xE1, name + struct.pack(">II", len(contents), at) + contents[at : at + room])


def _segment(marker: int, contents: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(contents)) + contents
