"""JPEG XLs of other colour spaces than sRGB, which imagecodecs does not write: by the libjxl that it brings with it."""

from __future__ import annotations

import ctypes
import struct
from importlib import import_module

import numpy as np

# Of JxlPrimaries and JxlTransferFunction.
SRGB_PRIMARIES, BT2100, P3 = 1, 9, 11
LINEAR, SRGB, PQ, HLG = 8, 13, 16, 18
RGB, GREY = 0, 1


def encode(samples: np.ndarray, colours: bytes | tuple[int, int], *, lossless: bool = True) -> bytes:
    """(H, W, 3) or (H, W), uint8 or uint16, as a JPEG XL whose colours are those of an ICC profile, or of primaries and a
    transfer function; lossless in these, or lossy, in the encoder's own (XYB)."""
    library = ctypes.CDLL(import_module("imagecodecs._jpegxl").__file__)
    for name in ("JxlEncoderCreate", "JxlEncoderFrameSettingsCreate"):
        getattr(library, name).restype = ctypes.c_void_p
    encoder = ctypes.c_void_p(library.JxlEncoderCreate(None))
    channels = 3 if samples.ndim == 3 else 1
    info = ctypes.create_string_buffer(512)  # a JxlBasicInfo
    library.JxlEncoderInitBasicInfo(info)
    struct.pack_into("III", info, 4, samples.shape[1], samples.shape[0], 8 * samples.itemsize)
    struct.pack_into("i", info, 36, lossless)  # uses_original_profile
    struct.pack_into("I", info, 52, channels)
    done = [library.JxlEncoderSetBasicInfo(encoder, info)]
    if isinstance(colours, bytes):
        done.append(library.JxlEncoderSetICCProfile(encoder, colours, ctypes.c_size_t(len(colours))))
    else:
        space = RGB if channels == 3 else GREY
        # A JxlColorEncoding: D65, no places of one's own, relative intent.
        packed = struct.pack("ii16xi4x48xi4xdi4x", space, 1, colours[0], colours[1], 0.0, 1)
        done.append(library.JxlEncoderSetColorEncoding(encoder, packed))
    frame = ctypes.c_void_p(library.JxlEncoderFrameSettingsCreate(encoder, None))
    if lossless:
        done.append(library.JxlEncoderSetFrameLossless(frame, 1))
    pixel_format = struct.pack("IiiN", channels, {1: 2, 2: 3}[samples.itemsize], 0, 0)
    data = samples.tobytes()
    done.append(library.JxlEncoderAddImageFrame(frame, pixel_format, data, ctypes.c_size_t(len(data))))
    library.JxlEncoderCloseInput(encoder)
    room = ctypes.create_string_buffer(2 * len(data) + 2**16)
    place, left = ctypes.c_void_p(ctypes.addressof(room)), ctypes.c_size_t(len(room))
    done.append(library.JxlEncoderProcessOutput(encoder, ctypes.byref(place), ctypes.byref(left)))
    library.JxlEncoderDestroy(encoder)
    assert not any(done), done
    return room.raw[: len(room) - left.value]
