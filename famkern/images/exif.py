"""EXIF is a small TIFF file: a header, then directories of tagged values, some of which point to further directories.

    main ("IFD0") --34665--> exif --40965--> interop
      |     `------34853--> gps
      `-- next directory: the thumbnail

Pillow and tifffile read these values, but write them back with types of their own and text as ASCII. Here a value stays
the bytes it is, so what is not understood is not harmed: resetting the orientation changes two bytes in place, and
moving EXIF into and out of a TIFF file copies the bytes to other offsets.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
EXIF, GPS, INTEROP = 34665, 34853, 40965
PIXEL_WIDTH, PIXEL_HEIGHT = 40962, 40963

MARK = b"Exif\0\0"  # before a block in a JPEG

# Bytes per value of each field type, and of the unit in which its byte order is reversed.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SWAPPED = SIZES | {5: 4, 10: 4}
ASCII, LONG, RATIONAL, LONG8 = 2, 4, 5, 16
INCH, CENTIMETRE = 2, 3  # of RESOLUTION_UNIT


class Value(NamedTuple):
    """One tag's values as little-endian bytes, and where in the source they lie."""

    kind: int
    data: bytes
    place: int


Directory = dict[int, Value]


@dataclass
class Directories:
    """What `parse` found, each directory by tag."""

    order: Literal["little", "big"]  # byte order of the source
    main: Directory
    exif: Directory
    gps: Directory
    interop: Directory
    thumbnail_link: int  # place of the four bytes (eight in a BigTIFF) that point to the thumbnail's directory


def parse(file: BinaryIO, keep: Container[int] | None = None) -> Directories | None:
    """The directories of a TIFF structure that fills `file`; of the main one, only the tags in `keep` if it is given.

    None if it is no such structure: damaged EXIF does not make a picture unreadable, and is carried over as it is.
    """
    try:
        return _parse(file, keep)
    except (ValueError, struct.error):
        return None


def unmarked(block: bytes | None) -> bytes | None:
    """A block without the mark that stands before it in a JPEG, and by habit elsewhere; None where there is nothing."""
    return (block or b"").removeprefix(MARK) or None


def parse_block(block: bytes | None) -> Directories | None:
    """`parse` of an EXIF block, if there is one."""
    return parse(io.BytesIO(block)) if block else None


def _parse(file: BinaryIO, keep: Container[int] | None) -> Directories:
    size = budget = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16)
    mark = {b"II": "<", b"MM": ">"}.get(head[:2])
    if mark is None:
        raise ValueError("not a TIFF structure")
    version, first = struct.unpack(mark + "HI", head[2:8])
    big = version == 43
    if big:
        (first,) = struct.unpack(mark + "Q", head[8:16])
    counter, entry, room = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)

    def read(place: int, length: int) -> bytes:
        if place < 0 or place + length > size:
            raise ValueError("a directory points outside its file")
        file.seek(place)
        return file.read(length)

    def directory(place: int, keep: Container[int] | None = None) -> tuple[Directory, int]:
        nonlocal budget
        start = place + struct.calcsize(counter)
        (count,) = struct.unpack(mark + counter, read(place, start - place))
        step = struct.calcsize("<" + entry)
        values: Directory = {}
        for index, fields in enumerate(struct.iter_unpack(mark + entry, read(start, count * step))):
            tag, kind, items, inline = fields
            length = items * SIZES.get(kind, 0)
            if keep is not None and tag not in keep:
                continue
            if length <= room:
                data, where = inline[:length], start + index * step + step - room
            else:
                where = struct.unpack(mark + ("Q" if big else "I"), inline)[0]
                budget -= length
                if where + length > size or budget < 0:
                    continue  # a damaged entry is no reason to lose the others, nor to read the file over and over
                data = read(where, length)
            if data:
                values[tag] = Value(kind, _little_endian(data, kind, mark), where)
        return values, start + count * step

    def below(parent: Directory, tag: int) -> Directory:
        try:
            return directory(integer(parent[tag]))[0] if tag in parent else {}
        except (ValueError, struct.error):
            return {}  # the directories that can be read still count, the orientation first of all

    main, link = directory(first, keep)
    exif = below(main, EXIF)
    return Directories(
        "little" if mark == "<" else "big", main, exif, below(main, GPS), below(exif, INTEROP), thumbnail_link=link
    )


def _little_endian(data: bytes, kind: int, mark: str) -> bytes:
    unit = SWAPPED[kind]
    if mark == "<" or unit == 1:
        return data
    return b"".join(data[at : at + unit][::-1] for at in range(0, len(data), unit))


def integer(value: Value) -> int:
    """The first of a tag's integers."""
    return int.from_bytes(value.data[: SIZES[value.kind]], "little")


def orientation(directories: Directories | None) -> int:
    """1..8; 1 where the tag is missing or holds anything else."""
    value = directories.main.get(ORIENTATION) if directories else None
    number = integer(value) if value else 1
    return number if 1 <= number <= 8 else 1


def resolution(directories: Directories | None) -> tuple[float, float] | None:
    """Horizontal and vertical pixels per inch, or None if they are not stated."""
    main = directories.main if directories else {}
    unit = integer(main[RESOLUTION_UNIT]) if RESOLUTION_UNIT in main else INCH
    sides = []
    for value in (main.get(X_RESOLUTION), main.get(Y_RESOLUTION)):
        above, below = struct.unpack("<II", value.data[:8]) if value and value.kind == RATIONAL else (0, 0)
        if above == 0 or below == 0 or unit not in (INCH, CENTIMETRE):
            return None
        sides.append(above / below * (1 if unit == INCH else 2.54))
    return sides[0], sides[1]


def upright(blob: bytes, directories: Directories, width: int, height: int) -> bytes:
    """The EXIF block `blob` for upright pixels of this size, changed in place so that makers' own offsets stay valid.

    The orientation becomes 1 and the stated size the true one. The thumbnail is unlinked: it shows the picture as it
    was before any processing, and lies on its side where the orientation was not 1.
    """
    changed = bytearray(blob)

    def put(values: Directory, tag: int, number: int) -> None:
        if tag in values and values[tag].kind in (3, 4):
            size = SIZES[values[tag].kind]
            place = values[tag].place
            changed[place : place + size] = min(number, 256**size - 1).to_bytes(size, directories.order)

    put(directories.main, ORIENTATION, 1)
    put(directories.exif, PIXEL_WIDTH, width)
    put(directories.exif, PIXEL_HEIGHT, height)
    changed[directories.thumbnail_link : directories.thumbnail_link + 4] = bytes(4)
    return bytes(changed[: len(blob)])


def blob(directories: Directories) -> bytes:
    """An EXIF block of these directories."""
    length = 8 + len(_directory(directories.main | _pointers(directories, (0, 0)), 0))
    children, places = below(directories, length)
    return (
        struct.pack("<2sHI", b"II", 42, 8) + _directory(directories.main | _pointers(directories, places), 8) + children
    )


def below(directories: Directories, offset: int, *, big: bool = False) -> tuple[bytes, tuple[int, int]]:
    """The exif and gps directories as bytes to be put at `offset`, and the offsets at which each of them starts."""
    interop = _directory(directories.interop, offset, big=big) if directories.interop else b""
    exif = {tag: value for tag, value in directories.exif.items() if tag != INTEROP}
    if interop:
        exif[INTEROP] = _pointer(offset, big)
    exif_place = offset + len(interop)
    exif_bytes = _directory(exif, exif_place, big=big) if exif else b""
    gps_place = exif_place + len(exif_bytes)
    gps_bytes = _directory(directories.gps, gps_place, big=big) if directories.gps else b""
    return interop + exif_bytes + gps_bytes, (exif_place, gps_place)


def _pointers(directories: Directories, places: tuple[int, int]) -> Directory:
    pairs = ((EXIF, directories.exif, places[0]), (GPS, directories.gps, places[1]))
    return {tag: _pointer(place, big=False) for tag, values, place in pairs if values}


def _pointer(place: int, big: bool) -> Value:
    return Value(LONG8, struct.pack("<Q", place), 0) if big else Value(LONG, struct.pack("<I", place), 0)


def _directory(values: Directory, offset: int, *, big: bool = False) -> bytes:
    """One directory with no successor, to be put at `offset`: its entries, then the data that do not fit into them."""
    counter, entry, room = ("<Q", "<HHQ8s", 8) if big else ("<H", "<HHI4s", 4)
    data_offset = offset + struct.calcsize(counter) + len(values) * struct.calcsize(entry) + room
    entries, data = struct.pack(counter, len(values)), b""
    for tag, value in sorted(values.items()):
        inline = value.data
        if len(inline) > room:
            inline = (data_offset + len(data)).to_bytes(room, "little")
            data += value.data + bytes(len(value.data) % 2)
        entries += struct.pack(entry, tag, value.kind, len(value.data) // SIZES[value.kind], inline)
    return entries + bytes(room) + data
