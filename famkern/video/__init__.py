"""Films and cameras: frames without flicker, and film files through PyAV (FFmpeg), an extra.

for clear in dehaze_frames(camera, Dehazer(scale=3)):
    ...
dehaze_film("hazy.mp4", "clear.mp4", Dehazer(scale=3))
"""

from .film import dehaze_film, film_bytes
from .formats import (
    CONTAINERS,
    ENCODERS,
    INSTALL,
    MOST_CRF,
    OTHERWISE,
    READ_SUFFIXES,
    encoder_of,
    is_film,
    is_installed,
)
from .frames import FrameDehazer, dehaze_frames
from .reading import Frame, Header, read_header

__all__ = [
    "CONTAINERS",
    "ENCODERS",
    "INSTALL",
    "MOST_CRF",
    "OTHERWISE",
    "READ_SUFFIXES",
    "Frame",
    "FrameDehazer",
    "Header",
    "dehaze_film",
    "dehaze_frames",
    "encoder_of",
    "film_bytes",
    "is_film",
    "is_installed",
    "read_header",
]
