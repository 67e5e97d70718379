"""TIFF: tifffile and imagecodecs read and write the pixels; `exif` carries the descriptive tags and EXIF over.

Read: 8 and 16 bit and float32, grey (also 1, 2 and 4 bit), RGB, palette, CMYK, and YCbCr in JPEG compression; strips or
tiles, chunky or planar, one alpha channel, further bands, any compression of imagecodecs; GDAL's masks, values for no
data, and tiles that are left out. Written: tiles, chunky, deflate.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from . import colour, exif
from .picture import Depth, Metadata, Samples, Stored, array_bytes, fault
from .segments import BUFFER_BYTES, THREADS, Segments

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6
BASE_CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3}
JPEG_COMPRESSIONS = {6, 7}
UNSIGNED, FLOAT, UNDEFINED = 1, 3, 4
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
REDUCED, MASK = 1, 4  # of a page's NewSubfileType: a smaller version of another; says which pixels of it are valid
NODATA = 42113  # GDAL's tag: the value of samples that hold no data, as text

MAX_RATIOS = {1: 1, 8: 1032, 32946: 1032}  # of compression: none, and deflate under its two numbers

MAX_CLASSIC_BYTES = 2**32 - 2**27  # of pixels, if they do not compress; larger files are BigTIFFs
MAX_PADDING = 2**26  # bytes of a tile beyond a small picture

TILE = 256  # rows and columns of the tiles that are written; of smaller pictures fewer, but multiples of TILE_STEP
TILE_STEP = 16


class _Quiet(logging.Filter):
    """Keeps tifffile from logging what it thinks of a file while we read it: what matters, our own lines say."""

    reading = 0
    lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.reading

    @contextmanager
    def while_reading(self) -> Iterator[None]:
        with self.lock:
            self.reading += 1
        try:
            yield
        finally:
            with self.lock:
                self.reading -= 1


quiet = _Quiet()
logging.getLogger("tifffile").addFilter(quiet)

XMP, PHOTOSHOP, ICC, DESCRIPTION = 700, 34377, 34675, 270
# Tags that describe the picture and not how it is stored: document and page name, description, camera, software, date,
# artist, host, copyright, IPTC, Windows' ratings and comments, and GeoTIFF's position on the ground.
DESCRIPTIVE = (
    {269, DESCRIPTION, 271, 272, 285, 305, 306, 315, 316, 33432, 33723}
    | {0x4746, 0x4749, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
    | {33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113}
)
RESOLUTION = {exif.X_RESOLUTION, exif.Y_RESOLUTION, exif.RESOLUTION_UNIT}
LINKS = {exif.EXIF, exif.GPS}


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is decoded."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    tiff = tifffile.TiffFile(file)
    page, mask = _only_page(file, tiff)
    photometric, bits = int(page.photometric), page.bitspersample
    width, height, samples_per_pixel = page.imagewidth, page.imagelength, page.samplesperpixel
    base = BASE_CHANNELS.get(photometric)
    advice = "convert it to 8 bit, 16 bit or float32 RGB"
    if base is None or (photometric == YCBCR and page.compression not in JPEG_COMPRESSIONS):
        name = getattr(page.photometric, "name", page.photometric)
        raise fault(file.name, f"TIFFs of colour type {name} are not supported; {advice}")
    extra = samples_per_pixel - base
    if extra < 0 or (extra and photometric in (PALETTE, INKS)):
        raise fault(file.name, f"TIFFs with {samples_per_pixel} channels of this kind are not supported; {advice}")
    kinds = (tuple(map(int, page.extrasamples)) + extra * (UNSPECIFIED,))[:extra]
    alpha = kinds[:1] in ((ASSOCIATED,), (UNASSOCIATED,))
    depths = {PALETTE: (1, 2, 4, 8)}.get(photometric, (1, 2, 4, 8, 16) if samples_per_pixel == 1 else (8, 16))
    if int(page.sampleformat) in (UNSIGNED, UNDEFINED) and bits in depths:
        dtype: Depth = np.dtype(np.uint16 if bits == 16 else np.uint8)
    elif int(page.sampleformat) == FLOAT and bits == 32 and photometric in (BLACK_IS_ZERO, RGB):
        dtype = np.dtype(np.float32)
    else:
        name = getattr(page.sampleformat, "name", page.sampleformat)
        raise fault(file.name, f"TIFFs of {bits}-bit {name} samples are not supported; {advice}")
    if not (width and height):
        raise fault(file.name, "damaged TIFF header; get another copy of the file")
    _check_segments(file, page, size)

    directories = exif.parse(file, DESCRIPTIVE | RESOLUTION | LINKS | {exif.ORIENTATION, XMP, PHOTOSHOP, ICC})
    if directories is None:
        raise fault(file.name, "damaged TIFF header; get another copy of the file")
    if tiff.is_shaped or tiff.is_imagej:
        directories.main.pop(DESCRIPTION, None)  # it describes the layout of the file
    icc, xmp, photoshop = (
        directories.main[tag].data if tag in directories.main else None for tag in (ICC, XMP, PHOTOSHOP)
    )
    damage: tuple[str, ...] = ()
    if photometric == INKS and icc and not colour.describes_inks(icc):
        icc, damage = None, ("colour profile, which is none of four inks",)
    orientation, dpi = exif.orientation(directories), exif.resolution(directories)
    directories.main = {tag: value for tag, value in directories.main.items() if tag in DESCRIPTIVE}
    described = directories.main or directories.exif or directories.gps

    channels = {PALETTE: 3, INKS: 3}.get(photometric, base + alpha)
    nodata = None if mask else _nodata(directories.main, dtype)
    if nodata is None and not mask and not all(page.databytecounts):
        nodata = 0.0  # which tiles without data are read as
    stored_bytes = array_bytes(width * height, samples_per_pixel, dtype)
    segment = array_bytes((page.tilewidth or width) * (page.tilelength or page.rowsperstrip), samples_per_pixel, dtype)
    if segment > 4 * stored_bytes + MAX_PADDING:
        raise fault(file.name, "the TIFF file's tiles are far larger than its picture; get another copy of it")
    ratio = MAX_RATIOS.get(int(page.compression))
    segments, masking = Segments(page), Segments(mask) if mask else None

    def valid(samples: Samples, rows: slice) -> NDArray[np.bool_]:
        return masking.read(rows) != 0 if masking else _valid(samples, base, nodata)

    def decoded() -> Iterator[tuple[slice, Samples]]:
        for rows, block in segments.blocks():
            yield rows, _converted(file, page, block, dtype, icc, partial(valid, rows=rows))

    # Of a block: what is decoded, its conversion, and the mask.
    rows_bytes = segments.bytes + array_bytes(segments.step * width, channels + len(kinds[alpha:]), dtype)
    mask_bytes = masking.bytes + masking.step * width if masking else 0
    whole_bytes = array_bytes(width * height, channels + len(kinds[alpha:]), dtype)

    return Stored(
        format="TIFF",
        width=width,
        height=height,
        channels=channels,
        dtype=dtype,
        orientation=orientation,
        metadata=Metadata(
            exif.blob(directories) if described else None, None if photometric == INKS else icc, xmp, photoshop, dpi
        ),
        lossless=int(page.compression) not in JPEG_COMPRESSIONS,
        decode=lambda: _joined(height, decoded()),
        least_bytes=width * height * samples_per_pixel * bits // (8 * ratio) if ratio else 0,
        decode_bytes=(whole_bytes if segments.step < height else 0)
        + rows_bytes
        + (mask_bytes + 2 * width * height if mask else 0),
        damage=damage,
        bands=kinds[alpha:],
        nodata=nodata,
        valid=valid if mask or nodata is not None else None,
        rows=decoded,
        rows_bytes=rows_bytes + mask_bytes,
    )


def _only_page(file: BinaryIO, tiff: tifffile.TiffFile) -> tuple[tifffile.TiffPage, tifffile.TiffPage | None]:
    """The page with the picture, and the one that masks it, if any.

    Smaller versions of either may be there too, and are left out; other pictures may not.
    """
    pages: list[tifffile.TiffPage] = []
    mask = None
    for page in (entry.aspage() for entry in tiff.pages):
        if int(page.subfiletype) & REDUCED:
            continue
        if int(page.subfiletype) & MASK:
            mask = page
        else:
            pages.append(page)
        if len(pages) > 1:
            break
    if not pages:
        raise fault(file.name, "the TIFF file holds no full-size picture; convert it to a plain TIFF")
    # These two write stacks of pictures behind one page.
    try:
        stacked = (tiff.is_imagej or tiff.is_shaped) and tiff.series[0].size > pages[0].size
    except ValueError:  # a description that is damaged describes no stack
        stacked = False
    if len(pages) > 1 or stacked or pages[0].imagedepth > 1:
        raise fault(file.name, "the TIFF file holds several pictures; save each as a file of its own")
    if mask and (mask.shape[:2] != pages[0].shape[:2] or mask.samplesperpixel != 1):
        raise fault(file.name, "the TIFF file's mask is not of its picture's size; convert it to a plain TIFF")
    return pages[0], mask


def _check_segments(file: BinaryIO, page: tifffile.TiffPage, size: int) -> None:
    """tifffile reads strips that are missing as black, and the rest of a file that is cut off as it comes.

    GDAL leaves tiles without data out, and gives them neither place nor length.
    """
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    expected = int(np.prod(page.chunked))
    missing = len(segments) < expected or any(
        start + length > size or (start and not length) for start, length in segments[:expected]
    )
    if missing:
        raise fault(file.name, "the TIFF file is cut off; get another copy of it")


def _nodata(main: exif.Directory, dtype: Depth) -> float | None:
    """GDAL's value for no data; None where there is none, or none that samples of this dtype can have."""
    try:
        value = float(main[NODATA].data.split(b"\0")[0]) if NODATA in main else None
    except ValueError:
        return None
    possible = value is not None and (dtype.kind == "f" or (0 <= value <= np.iinfo(dtype).max and value % 1 == 0))
    return value if possible else None


def _valid(samples: Samples, base: int, nodata: float | None) -> NDArray[np.bool_]:
    """(H, W): which pixels hold data, by the value of all their colours."""
    valid = np.ones(samples.shape[:2], bool)
    if nodata is not None:
        for rows in colour.bands(samples.shape[0], samples.size // samples.shape[0]):
            colours = samples[rows].reshape(*samples[rows].shape[:2], -1)[..., :base]
            same = np.isnan(colours) if np.isnan(nodata) else colours == colours.dtype.type(nodata)
            valid[rows] = ~same.all(-1)
    return valid


def _joined(height: int, blocks: Iterator[tuple[slice, Samples]]) -> Samples:
    """All rows in one array, which is the block itself if there is only one."""
    rows, block = next(blocks)
    if rows.stop == height:
        return block
    joined = np.empty((height, *block.shape[1:]), block.dtype)
    joined[rows] = block
    for rows, block in blocks:
        joined[rows] = block
    return joined


def _converted(
    file: BinaryIO,
    page: tifffile.TiffPage,
    samples: Samples,
    dtype: Depth,
    icc: bytes | None,
    check_validity: Callable[[Samples], NDArray[np.bool_]],
) -> Samples:
    """Rows as they are stored -> (rows, W) or (rows, W, C) of the picture's dtype; may change them in place."""
    if page.photometric == PALETTE:
        palette = np.asarray(page.colormap)  # (3, 2 ** bits) uint16
        eight_bit = (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)
        return eight_bit.T[samples.view(np.uint8)]
    if page.photometric == INKS:
        return colour.inks_to_rgb(samples, icc)
    if page.bitspersample < 8:
        samples = samples.view(np.uint8)  # from bool, if it is one bit
        samples *= 255 // (2**page.bitspersample - 1)
    colours = samples if samples.ndim == 2 else samples[..., : BASE_CHANNELS[int(page.photometric)]]
    if page.photometric == WHITE_IS_ZERO:
        np.subtract(np.iinfo(dtype).max, colours, out=colours)
    if dtype.kind == "f":
        valid = check_validity(samples)
        if colours.ndim == 3:
            valid = valid[..., None]
        low, high = colours.min(where=valid, initial=1), colours.max(where=valid, initial=0)
        if not (low >= 0 and high <= 1):  # also where they are not numbers
            raise fault(
                file.name,
                f"float samples lie in [{low:g}, {high:g}], they must be finite and in [0, 1]; scale or clip them",
            )
    if tuple(int(kind) for kind in page.extrasamples)[:1] == (ASSOCIATED,):
        base = BASE_CHANNELS[int(page.photometric)]
        _divide_by_alpha(samples[..., : base + 1])
    return samples


def _divide_by_alpha(samples: Samples) -> None:
    """In place: colours that were multiplied by alpha, the last channel, are so no more."""
    white = colour.peak(samples.dtype)
    for rows in colour.bands(samples.shape[0], samples.shape[1] * samples.shape[2]):
        band = samples[rows].astype(np.float64)
        straight = np.divide(
            band[..., :-1] * white, band[..., -1:], out=np.zeros_like(band[..., :-1]), where=band[..., -1:] > 0
        )
        samples[rows, :, :-1] = (
            straight.clip(0, white) if samples.dtype.kind == "f" else np.rint(straight.clip(0, white))
        )


def encode(
    file: BinaryIO,
    samples: Callable[[slice], Samples],
    shape: tuple[int, ...],
    dtype: Depth,
    metadata: Metadata,
    *,
    colours: int,
    kinds: Sequence[int],
    valid: NDArray[np.bool_] | None = None,
) -> None:
    """Write a picture of `shape`, (H, W) or (H, W, C), in uint8, uint16 or float32; `file` is open for reading too.

    samples     gives slices of its rows; each is asked for once, from the first to the last
    colours     1 or 3 of the channels
    kinds       of the others, as in ExtraSamples
    valid       (H, W), written as a mask if there is one
    """
    directories = exif.parse_block(metadata.exif)
    tags: list[tuple[int | str, int, int, bytes, bool]] = []
    links: list[int] = []
    big = array_bytes(math.prod(shape), 1, dtype) > MAX_CLASSIC_BYTES
    if directories:
        tags += [
            (tag, value.kind, len(value.data) // exif.SIZES[value.kind], value.data, True)
            for tag, value in directories.main.items()
            if tag in DESCRIPTIVE
        ]
        # Named, not numbered: tifffile then takes the tag as it is. The offsets are filled in below.
        kind, offset = (exif.LONG8, bytes(8)) if big else (exif.LONG, bytes(4))
        for name, tag, values in (("ExifTag", exif.EXIF, directories.exif), ("GPSTag", exif.GPS, directories.gps)):
            if values:
                tags.append((name, kind, 1, offset, True))
                links.append(tag)
    for tag, data in ((XMP, metadata.xmp), (PHOTOSHOP, metadata.photoshop)):
        if data:
            tags.append((tag, 1, len(data), data, True))
    with tifffile.TiffWriter(file, bigtiff=big, byteorder="<") as writer:

        def write(rows: Callable[[slice], Samples], shape: tuple[int, ...], dtype: Depth, **settings: Any) -> None:
            tile = tuple(min(TILE, -(-side // TILE_STEP) * TILE_STEP) for side in shape[:2])
            tiles = _tiles(rows, shape, tile)
            common: dict[str, Any] = {"compression": "zlib", "software": False, "metadata": None}
            writer.write(tiles, shape=shape, dtype=dtype, tile=tile, **common, **settings)

        write(
            samples,
            shape,
            dtype,
            photometric="rgb" if colours == 3 else "minisblack",
            planarconfig="contig" if len(shape) == 3 else None,
            extrasamples=kinds or None,
            predictor=True,
            iccprofile=metadata.icc,
            resolution=metadata.dpi,
            resolutionunit="inch" if metadata.dpi else None,
            extratags=tags,
            maxworkers=THREADS,
            buffersize=BUFFER_BYTES,
        )
        if valid is not None:
            write(lambda rows: valid[rows], shape[:2], np.dtype(bool), photometric="mask", subfiletype=MASK)
    if directories and links:
        end = file.seek(0, io.SEEK_END)
        padding = end % 2
        contents, places = exif.below(directories, end + padding, big=big)
        file.write(bytes(padding) + contents)
        written = exif.parse(file, LINKS)
        for tag, place in zip((exif.EXIF, exif.GPS), places, strict=True):
            if written and tag in links:
                file.seek(written.main[tag].place)
                file.write(struct.pack("<Q" if big else "<I", place))


def _tiles(rows: Callable[[slice], Samples], shape: tuple[int, ...], tile: tuple[int, ...]) -> Iterator[Samples]:
    """The tiles of a picture row by row, (h, w, C); those at the right and bottom edges are smaller."""
    for top in range(0, shape[0], tile[0]):
        strip = rows(slice(top, min(top + tile[0], shape[0])))
        strip = strip.reshape(*strip.shape[:2], -1)
        for left in range(0, shape[1], tile[1]):
            yield strip[:, left : left + tile[1]]


def encode_bytes(pixels: int, channels: int, dtype: Depth) -> int:
    """Of so many pixels in a row of tiles: its last ones are under way while the next row comes."""
    return array_bytes(pixels, channels, dtype)
