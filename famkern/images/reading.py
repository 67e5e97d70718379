"""header() and read(): from a file to a Picture."""

from __future__ import annotations

import dataclasses
import logging
import math
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import avif, bmp, colour, exif, heif, jpeg, jxl, png, raw, tiff, webp, xmp
from .files import check_writable
from .picture import (
    MAX_PIXELS,
    RAW_SUFFIXES,
    WORKSPACE_BYTES,
    Bands,
    Depth,
    Empty,
    ImageError,
    Metadata,
    Picture,
    Samples,
    Stored,
    array_bytes,
    fault,
    printable,
)
from .writing import check_fits, write_bytes

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "AVIF", "JPEG XL", "HEIF")  # in words, those told by their content

logger = logging.getLogger("famkern")


@dataclass(frozen=True)
class Header:
    """What can be known of an image file without decoding it.

    width, height   of the upright picture, after the orientation is applied
    channels        of the picture: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
    dtype           of the picture: uint8, uint16 or float32
    read_bytes      upper bound, in bytes, of the memory that read() needs at its peak, the returned Picture included
    rows_bytes      the same of read() into arrays that are not in memory; None where that is not possible
    metadata        as stored, with an orientation that read() would reset
    bands           kinds of further bands, see Bands
    gaps            there may be pixels without data, see Gaps
    masked          of which a mask of its own tells
    """

    path: Path
    format: str
    width: int
    height: int
    channels: int
    dtype: Depth
    read_bytes: int
    rows_bytes: int | None
    metadata: Metadata
    bands: tuple[int, ...] = ()
    gaps: bool = False
    masked: bool = False

    @property
    def has_alpha(self) -> bool:
        """Whether the last of the channels is alpha."""
        return self.channels in (2, 4)

    def check_fits(self, path: str | PathLike[str], format: str) -> None:
        """Raise the ImageError with which write() would refuse this picture, for the format or for its place."""
        check_writable(path)
        check_fits(
            path,
            format,
            self.width,
            self.height,
            alpha=self.has_alpha,
            metadata=self.metadata,
            bands=len(self.bands),
            masked=self.masked,
        )

    def write_bytes(self, format: str) -> int:
        """Upper bound, in bytes, of the memory that write() needs at its peak for this picture, itself not included."""
        return write_bytes(self.width, self.height, self.channels, self.dtype, format, bands=len(self.bands))


def header(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Header:
    """What can be known of the image file `path` without decoding it: see Header.

    Raises ImageError as `read` does, except for damage that only decoding finds.
    """
    with _opened(path, max_pixels) as stored:
        width, height = (stored.width, stored.height) if stored.orientation < 5 else (stored.height, stored.width)
        # After decoding: what was decoded, and the Picture, which is the same array if nothing is to be rearranged.
        bands = len(stored.bands)
        decoded = array_bytes(width * height, stored.channels + bands, stored.dtype)
        picture = array_bytes(width * height, 3 + stored.has_alpha + bands, stored.dtype)
        if stored.valid:
            picture += width * height
        rearranged = stored.channels + bands != 3 or stored.orientation != 1
        return Header(
            path=Path(path),
            format=stored.format,
            width=width,
            height=height,
            channels=stored.channels,
            dtype=stored.dtype,
            metadata=stored.metadata,
            bands=stored.bands,
            gaps=bool(stored.valid) or stored.has_alpha,
            masked=bool(stored.valid) and stored.nodata is None,
            read_bytes=WORKSPACE_BYTES + max(stored.decode_bytes, decoded + picture if rearranged else 0),
            rows_bytes=WORKSPACE_BYTES + stored.rows_bytes if stored.rows and stored.orientation == 1 else None,
        )


def read(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS, empty: Empty | None = None) -> Picture:
    """Read the image file `path`: upright, RGB, at its own depth; see Picture.

    The content decides the format, not the suffix: JPEG, PNG (8 and 16 bit), WebP, TIFF (8 and 16 bit,
    float32), BMP, AVIF, JPEG XL or HEIF (as phones write it); camera RAW is known by its suffix, and is developed.
    Palettes are expanded, CMYK is converted to sRGB (through the embedded profile, which is then dropped), of a
    multi-picture JPEG the first picture is read, and colours that were multiplied by alpha are divided by it again.
    The orientation is applied, and set to 1 in EXIF and XMP; EXIF's thumbnail is unlinked, for it shows the picture as
    it was, and XMP mentions no gain map or film that was behind the picture. All other metadata are kept: see Metadata.
    Those that are damaged are left out, with one warning in the log that names the file.

    `empty`, like numpy.empty, makes the arrays of the Picture from shape and dtype, for example on disk, and the file is
    decoded into them a few rows at a time. That is possible where the header's rows_bytes is not None.

    Raises ImageError if the file is missing, unreadable, empty, cut off, damaged, of another format or of a kind that
    is not supported, if it holds several pictures, more than `max_pixels` pixels (which the header tells, before
    anything is decoded), or float samples outside [0, 1]. Raises MemoryError if memory does not suffice.
    """
    with _opened(path, max_pixels) as stored:
        picture = _whole(path, stored) if empty is None else _in_rows(path, stored, empty)
        if stored.damage:
            logger.warning(printable(f"{path}: read without damaged metadata: {', '.join(stored.damage)}"))
    return picture


@contextmanager
def _opened(path: str | PathLike[str], max_pixels: int) -> Iterator[Stored]:
    """The file at `path` as its codec sees it; whatever the codec raises meanwhile becomes an ImageError."""
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise fault(path, "is a folder; name a file")
        if not stat.S_ISREG(status.st_mode):
            raise fault(path, "is not a regular file; copy its content into one")
        if not status.st_size:
            raise fault(path, "is empty; get another copy of the file")
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise fault(path, f"cannot be opened ({error.strerror}); check the name and the permissions") from error
    # Of damaged numbers, libraries compute what NumPy would warn of.
    with file, tiff.quiet.while_reading(), np.errstate(all="ignore"):
        try:
            stored = _without_damage(_codec(file)(file))
            if stored.width * stored.height > max_pixels:
                size = f"{stored.width} x {stored.height} = {stored.width * stored.height:,} pixels"
                raise fault(path, f"{size}, over the limit of {max_pixels:,}; raise max_pixels or scale the image down")
            if status.st_size < stored.least_bytes:
                raise fault(
                    path, "is cut off: its header tells of more pixels than it can hold; get another copy of it"
                )
            yield stored
        except (ImageError, MemoryError):
            raise
        # Codecs raise whatever their parsers come across in a damaged file, down to IndexError and UnicodeDecodeError.
        except Exception as error:
            problem = f"damaged, or of a kind that is not supported ({type(error).__name__}: {error})"
            raise fault(path, f"{problem}; get another copy of the file or convert it to PNG") from error


def _without_damage(stored: Stored) -> Stored:
    """The same without metadata that would harm whoever reads the result."""
    metadata, damage = stored.metadata, list(stored.damage)
    if metadata.icc:
        kind = colour.profile_kind(metadata.icc)
        if kind != "RGB" and not (kind == "GRAY" and stored.channels < 3):
            damage.append(f"colour profile ({f'of {kind} for RGB' if kind else 'not an ICC profile'})")
            metadata = dataclasses.replace(metadata, icc=None)
    if metadata.xmp:
        try:
            packet: bytes | None = xmp.alone(metadata.xmp, extended=metadata.extended_xmp is not None)
        except ValueError as error:
            packet = None
            damage.append(str(error))
        metadata = dataclasses.replace(metadata, xmp=packet)
    if metadata.dpi and not all(0 < dpi < math.inf for dpi in metadata.dpi):
        metadata = dataclasses.replace(metadata, dpi=None)
    return dataclasses.replace(stored, metadata=metadata, damage=tuple(damage))


def _codec(file: BinaryIO) -> Callable[[BinaryIO], Stored]:
    if Path(file.name).suffix.lower() in RAW_SUFFIXES:
        return raw.inspect
    start = file.read(16)
    inspect = _by_its_start(start)
    if inspect:
        return inspect
    if start.startswith((b"GIF87a", b"GIF89a")):
        raise fault(file.name, "GIFs are not supported, animated or not; save the picture as PNG")
    raise fault(file.name, f"is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image; convert it to one of these")


def _by_its_start(start: bytes) -> Callable[[BinaryIO], Stored] | None:
    """What inspects files that begin with these 16 bytes."""
    for marks, inspect in (
        ((b"\xff\xd8\xff",), jpeg.inspect),
        ((png.SIGNATURE,), png.inspect),
        ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff.inspect),
        ((b"BM",), bmp.inspect),
        ((jxl.CODESTREAM, jxl.CONTAINER), jxl.inspect),
    ):
        if start.startswith(marks):
            return inspect
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return webp.inspect
    if start[4:8] == b"ftyp":
        if start[8:12] in (b"avif", b"avis"):
            return avif.inspect
        if start[8:12] in HEIF_BRANDS:
            return heif.inspect
    return None


def holds_picture(path: str | PathLike[str]) -> bool:
    """Whether a file begins like a picture, whatever its name; False too for one that cannot be opened.

    The two bytes of BMP and of a bare JPEG XL codestream are too few to tell by.
    """
    try:
        with open(path, "rb") as file:
            return _by_its_start(file.read(16)) not in (None, bmp.inspect, jxl.inspect)
    except OSError:
        return False


def _whole(path: str | PathLike[str], stored: Stored) -> Picture:
    """The picture, decoded as a whole."""
    everything = slice(0, stored.height)
    decoded = _checked(path, stored, stored.decode(), everything)
    valid = stored.valid(decoded, everything) if stored.valid else None
    samples = upright(decoded if decoded.ndim == 3 else decoded[..., None], stored.orientation)
    height, width, _ = samples.shape
    if stored.channels >= 3:
        pixels = np.ascontiguousarray(samples[..., :3])
    else:
        pixels = np.empty((height, width, 3), stored.dtype)
        pixels[...] = samples[..., :1]
    return _picture(
        stored,
        pixels,
        np.ascontiguousarray(samples[..., _colours(stored)]) if stored.has_alpha else None,
        np.ascontiguousarray(samples[..., stored.channels :]) if stored.bands else None,
        None if valid is None else np.ascontiguousarray(upright(valid[..., None], stored.orientation)[..., 0]),
    )


def _in_rows(path: str | PathLike[str], stored: Stored, empty: Empty) -> Picture:
    """The picture, decoded a few rows at a time into arrays that are made by `empty`."""
    assert stored.rows
    assert stored.orientation == 1
    size = stored.height, stored.width
    pixels = empty((*size, 3), stored.dtype)
    alpha = empty(size, stored.dtype) if stored.has_alpha else None
    bands = empty((*size, len(stored.bands)), stored.dtype) if stored.bands else None
    valid = empty(size, bool) if stored.valid else None
    for rows, decoded in stored.rows():
        _checked(path, stored, decoded, rows)
        samples = decoded if decoded.ndim == 3 else decoded[..., None]
        pixels[rows] = samples[..., : _colours(stored)]
        if alpha is not None:
            alpha[rows] = samples[..., _colours(stored)]
        if bands is not None:
            bands[rows] = samples[..., stored.channels :]
        if valid is not None and stored.valid:
            valid[rows] = stored.valid(decoded, rows)
    return _picture(stored, pixels, alpha, bands, valid)


def _checked(path: str | PathLike[str], stored: Stored, decoded: Samples, rows: slice) -> Samples:
    """What was decoded of these rows, if it is what the header tells."""
    channels = stored.channels + len(stored.bands)
    shape = (rows.stop - rows.start, stored.width) + ((channels,) if channels > 1 else ())
    if decoded.shape != shape or decoded.dtype != stored.dtype:
        raise fault(path, f"damaged: its header tells {shape}, its content is {decoded.shape}; get another copy")
    return decoded


def _colours(stored: Stored) -> int:
    return 3 if stored.channels >= 3 else 1


def _picture(
    stored: Stored, pixels: Samples, alpha: Samples | None, bands: Samples | None, valid: NDArray[np.bool_] | None
) -> Picture:
    height, width, _ = pixels.shape
    metadata = stored.metadata
    directories = exif.parse_block(metadata.exif)
    if metadata.exif and directories:
        metadata = dataclasses.replace(metadata, exif=exif.upright(metadata.exif, directories, width, height))
    if metadata.xmp and stored.orientation != 1:
        metadata = dataclasses.replace(metadata, xmp=xmp.upright(metadata.xmp))
    return Picture(
        pixels=pixels,
        alpha=alpha,
        grey=stored.channels < 3,
        format=stored.format,
        metadata=metadata,
        lossless=stored.lossless,
        bands=None if bands is None else Bands(bands, stored.bands),
        valid=valid,
        nodata=stored.nodata,
    )


def upright(samples: Samples, orientation: int) -> Samples:
    """A view of (H, W, C) `samples`, stored with EXIF's `orientation`, as they are to be seen.

    Orientations 5 to 8 are stored with rows for columns; then 2, 3, 6, 7 run from the right and
    3, 4, 7, 8 from the bottom.
    """
    if orientation >= 5:
        samples = samples.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples
