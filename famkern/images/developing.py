"""A program that develops the camera RAW on its standard input, and writes samples to its standard output: see `raw`.

LibRaw tells what it finds wrong with a file on standard error, and rawpy has no switch for that. Of a process of its own
it can be caught; and a file that brings LibRaw down takes only that process with it.
"""

import os
import sys

import rawpy

SRGB = (2.4, 12.92)  # its curve: exponent, and slope at black


def reason(error: Exception) -> str:
    """What an error says; LibRaw's are of bytes."""
    said = error.args[0] if error.args else ""
    return f"{type(error).__name__}: {said.decode(errors='replace') if isinstance(said, bytes) else said}"


def main() -> None:
    """Samples: (H, W, 3) uint16 sRGB, upright. Where there are none, the reason is the last line on standard error."""
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is not among the samples
    with open(output, "wb") as target, rawpy.imread(sys.stdin.buffer) as raw:
        target.write(raw.postprocess(use_camera_wb=True, output_bps=16, gamma=SRGB).data)


if __name__ == "__main__":
    try:
        main()
    except (rawpy.LibRawError, ValueError, MemoryError) as error:
        raise SystemExit(reason(error)) from error
