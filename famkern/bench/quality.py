"""How good the networks are that times stand beside: PSNR in dB on SOTS-indoor."""

from __future__ import annotations

# Of the shipped weights, by scale, on the 70 pairs of validation, as their cards have it. Pictures there are 620 x 460.
MEASURED: dict[str, dict[int, float]] = {
    "student": {1: 24.99, 2: 25.60, 3: 25.98},
    "student-indoor": {1: 27.31, 2: 25.92},
    "u-indoor": {1: 26.24, 2: 25.73, 3: 25.60},
}

# Of others, on all 500 pairs, with the multiply-adds of a pixel: as their authors state them, not measured here.
CITED: dict[str, tuple[float, float]] = {
    "GCANet": (30.23, 18.41e9 / 256**2),
    "FFA-Net": (36.39, 287.8e9 / 256**2),
    "gUNet-T": (37.99, 2.595e9 / 256**2),
    "MAXIM-2S": (38.11, 216e9 / 256**2),
}

# Of a pixel, of the networks whose time in PyTorch is measured.
MULTIPLY_ADDS = {"student": 93_670, "u-indoor": 62_010}
