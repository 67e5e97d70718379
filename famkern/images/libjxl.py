"""The colour profile of a JPEG XL, from libjxl itself: of the copy that imagecodecs decodes with.

imagecodecs returns pixels and says nothing of their colours. The library beneath it does, through functions that are the
same in all its versions from 0.9 on; ctypes calls them. They read the header only, and the profile is that of the pixels as
imagecodecs gets them: what a lossy file was encoded from may have been another.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib import import_module

OLDEST = 9000  # version 0.9.0: before, the functions took one argument more
COLOUR_ENCODING = 0x100  # the event after which the profile is known
PIXELS = 1  # whose profile: that of the pixels, not of the original
MAX_PROFILE = 16 * 2**20  # bytes; more is damage, or an attack


class ProfileError(ValueError):
    """There is a profile, but it cannot be had; the message says why."""


def profile(data: bytes) -> bytes:
    """The ICC profile of the pixels that imagecodecs decodes of `data`, a whole file.

    Raises:
        ProfileError: if the file is damaged, or imagecodecs is built in another way than its wheels for Linux and macOS.
    """
    library = _library()
    decoder = library.JxlDecoderCreate(None)
    if not decoder:
        raise MemoryError("libjxl's decoder cannot be allocated")
    try:
        library.JxlDecoderSubscribeEvents(decoder, COLOUR_ENCODING)
        library.JxlDecoderSetInput(decoder, data, len(data))
        if library.JxlDecoderProcessInput(decoder) != COLOUR_ENCODING:
            raise ProfileError("colour profile (damaged)")
        size = ctypes.c_size_t()
        if library.JxlDecoderGetICCProfileSize(decoder, PIXELS, ctypes.byref(size)) or size.value > MAX_PROFILE:
            raise ProfileError("colour profile (none can be made of what it says)")
        icc = ctypes.create_string_buffer(size.value)
        if library.JxlDecoderGetColorAsICCProfile(decoder, PIXELS, icc, size):
            raise ProfileError("colour profile (damaged)")
        return icc.raw
    finally:
        library.JxlDecoderDestroy(decoder)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    pointer, size, status = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    signatures = {
        "JxlDecoderVersion": (ctypes.c_uint32,),
        "JxlDecoderCreate": (pointer, pointer),
        "JxlDecoderSubscribeEvents": (status, pointer, ctypes.c_int),
        "JxlDecoderSetInput": (status, pointer, ctypes.c_char_p, size),
        "JxlDecoderProcessInput": (status, pointer),
        "JxlDecoderGetICCProfileSize": (status, pointer, ctypes.c_int, ctypes.POINTER(size)),
        "JxlDecoderGetColorAsICCProfile": (status, pointer, ctypes.c_int, pointer, size),
        "JxlDecoderDestroy": (None, pointer),
    }
    try:
        # The module of imagecodecs: its symbols are searched, and after them those of the libraries it is linked to.
        library = ctypes.CDLL(import_module("imagecodecs._jpegxl").__file__)
        for name, (result, *arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        if library.JxlDecoderVersion() < OLDEST:
            raise OSError("libjxl is older than 0.9")
    except (AttributeError, ImportError, OSError) as error:
        raise ProfileError("colour profile, which imagecodecs as it is installed here does not give") from error
    return library
