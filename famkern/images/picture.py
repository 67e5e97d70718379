"""What the other files of this room talk about: a picture in memory and in a file, and the error they raise."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

Samples = NDArray[Any]  # uint8, uint16 or float32 unless said otherwise
Depth = np.dtype[Any]
Empty = Callable[[tuple[int, ...], DTypeLike], Any]  # like numpy.empty: shape, dtype -> array, for example on disk

MAX_PIXELS = 1_000_000_000

SUFFIXES: dict[str, str] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
"""File name suffix, in lower case and with its dot, to the name of the format, of those that can be read and written."""

RAW_SUFFIXES = frozenset(
    (  # noqa: SIM905
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 "
        ".srf .srw .x3f"
    ).split()
)
READ_SUFFIXES: dict[str, str] = {
    **SUFFIXES,
    **dict.fromkeys((".mpo", ".pjpeg", ".pjp", ".jif", ".jfi"), "JPEG"),
    ".dib": "BMP",
    ".jxl": "JPEG XL",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    **dict.fromkeys(sorted(RAW_SUFFIXES), "RAW"),
}
"""The same of all formats that can be read, those of NEEDS with another package."""

NEEDS = {"HEIF": "pillow_heif", "RAW": "rawpy"}
"""Formats to the modules that they need."""

INSTALL = "pip install 'famkern[formats]'"

UNREAD_SUFFIXES = frozenset(
    (  # noqa: SIM905
        ".gif .apng .mng .jng .jp2 .j2k .jpf .jpm .jpx .jxr .jxs .jls .wdp .avifs .heics .heifs .flif .bpg .qoi .dds .ktx2 "
        ".psd .psb .xcf .kra .ora .afphoto .clip .svg .eps .wmf .emf .exr .hdr .pfm .tga .ico .icns .cur .pcx .sgi .ras "
        ".ppm .pgm .pbm .pnm .pam .wbmp .xbm .xpm .dcm .fits .ecw .sid .raw .gpr .ori "
        ".mp4 .m4v .mov .avi .mkv .webm .mts .insp .braw"
    ).split()
)
"""Suffixes, in lower case, of pictures and films that are not read: a folder's summary counts them."""

_kinds = mimetypes.MimeTypes()  # by Python's own tables, not those of this machine

# What each bound on memory allows for beside whole arrays, whatever the size of the picture: bands of rows under way,
# codecs' small buffers, and the libraries' code, which is loaded on first use.
WORKSPACE_BYTES = 32 * 2**20


class ImageError(ValueError):
    """A file that cannot be read or written. The message is one line: the file, what is wrong, and what to do."""


class Unfit(ValueError):
    """What a codec's encode() raises for a picture that its format cannot hold; write() adds the file's name."""


def fault(path: object, problem: str) -> ImageError:
    """The ImageError for `path`, on one line whatever a file name or a library's message holds."""
    return ImageError(printable(f"{path}: {' '.join(problem.splitlines())}"))


def printable(text: str) -> str:
    """`text` for a terminal: control characters, and bytes of a name that are no text in its encoding, as escapes."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


@dataclass(frozen=True)
class Metadata:
    """What a file says about its pixels. A format keeps what it has a place for; see `famkern.images.write`.

    exif        a TIFF structure (it starts with b"II" or b"MM"); its orientation is 1 and it links to no thumbnail
    icc         ICC profile of the pixels
    xmp         XMP packet; it mentions no part of its file that is not here
    extended_xmp    the extension that the packet names (JPEG only; in other formats the packet stands alone)
    photoshop   Photoshop image resources, where IPTC captions live (JPEG and TIFF)
    dpi         horizontal and vertical pixels per inch
    comment     free text (JPEG and PNG)
    chunks      PNG only: names and contents of its text and colour chunks, copied as they are into a PNG
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    photoshop: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    extended_xmp: bytes | None = None


@dataclass(frozen=True, eq=False)
class Bands:
    """Bands of a TIFF beside its colours and alpha.

    samples     (H, W, K) of the dtype of the pixels
    kinds       K numbers as in TIFF's ExtraSamples: 0 for no stated meaning
    """

    samples: Samples
    kinds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, upright. `dataclasses.replace(picture, pixels=...)` carries all but the pixels over.

    Its arrays are NumPy's, or, where it is not in memory, whatever gives slices of rows as such: see `read`.

    pixels      (H, W, 3) RGB, C-contiguous; uint8, uint16, or float32 in [0, 1]. Grey files give three equal channels
    alpha       (H, W) of the same dtype, or None. Straight: the colours are not multiplied by it
    grey        the file was grey, so that write() stores Rec.601 luma
    format      the format it was read from, one of those in READ_SUFFIXES
    metadata    see Metadata
    lossless    the file lost nothing by its compression. Decides how a WebP is written again
    bands       further bands of a TIFF, such as near infrared, which stay as they are
    valid       (H, W) bool, False where a TIFF holds no data, or None for all; float pixels there may be any
    nodata      the value that says so in the pixels; None: a mask of its own does

    Raises TypeError for a dtype, and ValueError for a shape or a layout, that is not as above.
    """

    pixels: Samples
    alpha: Samples | None = None
    grey: bool = False
    format: str = "PNG"
    metadata: Metadata = Metadata()
    lossless: bool = True
    bands: Bands | None = None
    valid: NDArray[np.bool_] | None = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.dtype not in (np.uint8, np.uint16, np.float32):
            raise TypeError(f"pixels are {pixels.dtype}; uint8, uint16 and float32 are accepted")
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ValueError(f"pixels have shape {pixels.shape}; (H, W, 3) with H, W >= 1 is accepted")
        if isinstance(pixels, np.ndarray) and not pixels.flags.c_contiguous:
            raise ValueError("pixels are not C-contiguous; pass numpy.ascontiguousarray(pixels)")
        if alpha is not None and (alpha.dtype != pixels.dtype or alpha.shape != pixels.shape[:2]):
            raise ValueError(
                f"alpha is {alpha.dtype} {alpha.shape}; these pixels go with {pixels.dtype} {pixels.shape[:2]}"
            )
        if self.valid is not None and (self.valid.dtype != bool or self.valid.shape != pixels.shape[:2]):
            raise ValueError(
                f"valid is {self.valid.dtype} {self.valid.shape}; these pixels go with bool {pixels.shape[:2]}"
            )


@dataclass(frozen=True)
class Stored:
    """A file as its codec finds it: rows and columns as they are stored, orientation not yet applied.

    orientation     1..8 as in EXIF
    bands           kinds of further bands, see Bands
    nodata          see Picture
    decode()        -> (H, W) or (H, W, C) array of `dtype`, C = `channels` + bands, any strides
    valid(samples, rows)    -> (H, W) bool for these samples, which are those decoded of `rows`; None where all are valid
    decode_bytes    upper bound of what decode() needs at its peak, its result included
    least_bytes     lower bound of the size of a whole file with so many pixels; a header that promises more than its
                    file can hold is damaged, or an attack on memory
    rows()          -> all rows from the first to the last, as slices of them and what decode() has there; None where the
                    codec decodes the picture as a whole only
    rows_bytes      upper bound of what a step of rows() needs at its peak, its result included
    damage          what was wrong with metadata, which are left out
    """

    format: str
    width: int
    height: int
    channels: int
    dtype: Depth
    orientation: int
    metadata: Metadata
    lossless: bool
    decode: Callable[[], Samples]
    decode_bytes: int
    least_bytes: int = 0
    damage: tuple[str, ...] = ()
    bands: tuple[int, ...] = ()
    nodata: float | None = None
    valid: Callable[[Samples, slice], NDArray[np.bool_]] | None = None
    rows: Callable[[], Iterator[tuple[slice, Samples]]] | None = None
    rows_bytes: int = 0

    @property
    def has_alpha(self) -> bool:
        """Whether the last of the channels is alpha."""
        return self.channels in (2, 4)


def suffix_of(format: str | None) -> str:
    """The first suffix of a format; that of PNG, which holds anything, for one that cannot be written."""
    return next((suffix for suffix, name in SUFFIXES.items() if name == format), ".png")


def is_picture(suffix: str) -> bool:
    """Whether files of this suffix, in lower case, are pictures (or films that are not read), whether read or not."""
    kind, _ = _kinds.guess_type(f"a{suffix}")
    return suffix in READ_SUFFIXES or suffix in UNREAD_SUFFIXES or (kind or "").startswith("image/")


def is_readable(suffix: str) -> bool:
    """Whether files of this suffix, in lower case, can be read with the packages that are installed."""
    needed = NEEDS.get(READ_SUFFIXES.get(suffix, ""))
    return suffix in READ_SUFFIXES and (needed is None or find_spec(needed) is not None)


@contextmanager
def needs(path: str, package: str) -> Iterator[None]:
    """Around an import: what to do where this package is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise fault(path, f"needs {package}, which is not installed: {INSTALL}") from error


def content(file: BinaryIO) -> bytes:
    """All of a file."""
    file.seek(0)
    return file.read()


def array_bytes(pixels: int, channels: int, dtype: DTypeLike) -> int:
    """Size of an array."""
    return pixels * channels * np.dtype(dtype).itemsize
