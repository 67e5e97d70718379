"""Triton kernels, imported as famkern.kernels."""
