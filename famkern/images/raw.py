"""Camera RAW: rawpy (LibRaw) develops it with the camera's white balance, to sRGB of 16 bits, upright.

Many are TIFF files by their first bytes, so that here the suffix decides.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from . import exif
from .picture import Metadata, Samples, Stored, array_bytes, fault, needs, printable
from .tiff import DESCRIPTIVE, LINKS

TURNED = (5, 6)  # LibRaw's numbers for turns by a quarter
# Python's own switches (-I, -W) keep the environment out; where packages are to be found is what they are for this process.
PROGRAM = "import runpy, sys; program, *sys.path = sys.argv[1:]; runpy.run_path(program, run_name='__main__')"

PROCESS_BYTES = 64 * 2**20  # of Python with NumPy and rawpy

logger = logging.getLogger("famkern")


def inspect(file: BinaryIO) -> Stored:
    """The file as its header and metadata describe it; nothing is developed."""
    with needs(file.name, "rawpy"):
        import rawpy

        from .developing import reason

    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        with rawpy.imread(file) as raw:
            sizes = raw.sizes  # known before the samples are unpacked
    except rawpy.LibRawError as error:
        raise fault(file.name, f"cannot be developed ({reason(error)}); get another copy of the file") from error
    width, height = (sizes.iheight, sizes.iwidth) if sizes.flip in TURNED else (sizes.iwidth, sizes.iheight)
    dtype = np.dtype(np.uint16)

    def decode() -> Samples:
        samples = np.empty((height, width, 3), dtype)
        _develop(file, samples)
        return samples

    directories = exif.parse(file, DESCRIPTIVE | LINKS)
    described = directories and (directories.main or directories.exif or directories.gps)
    if directories:
        directories.main = {tag: value for tag, value in directories.main.items() if tag in DESCRIPTIVE}
    return Stored(
        format="RAW",
        width=width,
        height=height,
        channels=3,
        dtype=dtype,
        orientation=1,
        metadata=Metadata(exif.blob(directories) if directories and described else None),
        lossless=False,
        decode=decode,
        # The process that develops holds the file, the sensor's samples, four channels of 16 bits, and the result twice.
        decode_bytes=PROCESS_BYTES
        + size
        + array_bytes(sizes.raw_width * sizes.raw_height, 5, dtype)
        + 3 * array_bytes(width * height, 3, dtype),
    )


def _develop(file: BinaryIO, samples: Samples) -> None:
    """Develop into `samples` in a process of its own (see `developing`); what LibRaw says of the file goes to the log."""
    program = Path(__file__).with_name("developing.py")
    command = [sys.executable, "-I", "-Wignore", "-c", PROGRAM, str(program), *sys.path]
    # Opened anew: another process would not see what of `file` is in this one's buffer.
    with tempfile.TemporaryFile() as said, open(file.name, "rb") as source:
        # In a session of its own, an interrupted batch can finish its last file, as it does with other formats.
        process = subprocess.Popen(
            command, stdin=source, stdout=subprocess.PIPE, stderr=said, bufsize=0, start_new_session=True
        )
        with process:
            try:
                complete = _fill(cast("io.FileIO", process.stdout), samples)
            except BaseException:
                process.kill()
                raise
        said.seek(0)
        lines = said.read().decode(errors="replace").split("\n")
    reasons = [line.strip().removeprefix("unknown file: ") for line in lines if line.strip()]
    if not complete:
        reason = reasons[-1] if reasons else f"LibRaw ended with code {process.returncode}"
        raise fault(file.name, f"cannot be developed ({reason}); get another copy of the file")
    for reason in dict.fromkeys(reasons):
        logger.warning(printable(f"{file.name}: LibRaw says: {reason}; look at the result"))


def _fill(source: io.FileIO, samples: Samples) -> bool:
    """Read `samples` from `source`; whether it held just as many."""
    room = samples.data.cast("B")
    while room:
        count = source.readinto(room)
        if not count:
            return False
        room = room[count:]
    return not source.read(1)
