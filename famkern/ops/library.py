"""The operator library `torch.ops.famkern` and its compiled half.

Each operator is declared in Python, with an implementation for any device; famkern/_C.so registers CPU kernels for
some of them, which PyTorch's dispatcher then prefers. Importing this module loads _C.so, once. Where it is missing
everything still works on the Python implementations, slower, and the log says so, once, when the first of them runs.

    FAMKERN_CPU_ISA=portable|avx2|avx512    use that instruction set instead of the best one of this CPU
    FAMKERN_CPU_ISA=none                    leave _C.so out
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

LIBRARY = torch.library.Library("famkern", "FRAGMENT")
"""Where every operator of famkern is declared: `LIBRARY.define("name(Tensor x) -> Tensor")`."""

COMPILED = Path(__file__).resolve().parents[1] / "_C.so"


def _load() -> str | None:
    """Load _C.so; None, or the reason why it is not in use."""
    if os.environ.get("FAMKERN_CPU_ISA") == "none":
        return "FAMKERN_CPU_ISA=none leaves them out"
    if not COMPILED.exists():
        return f"{COMPILED} was not built; reinstall famkern where a C++ compiler and torch >= 2.10 are present"
    try:
        torch.ops.load_library(COMPILED)
    except OSError as error:
        return f"{COMPILED} does not load into torch {torch.__version__}: {error}"
    return None


_REASON = _load()


def refuse_forward_mode(*tensors: torch.Tensor | None) -> None:
    """Refuse tensors that carry a forward-mode derivative (torch.func.jvp), which the operators would silently drop.

    Raises:
        RuntimeError: if there is one.
    """
    for tensor in tensors:
        if tensor is not None and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                "famkern's operators have derivatives backwards only, not torch.func.jvp or other forward-mode ones"
            )


def reference_is_asked() -> bool:
    """Whether FAMKERN_REFERENCE=1 asks for plain PyTorch instead of any kernels."""
    return os.environ.get("FAMKERN_REFERENCE") == "1"


def why_not_compiled() -> str | None:
    """None where the compiled CPU kernels are in use, otherwise the reason why they are not."""
    return _REASON


@functools.cache
def has_cuda_stages() -> bool:
    """Whether the kernels in CUDA C++, of the stages and of the feature affinity, were built."""
    return _REASON is None and hasattr(ctypes.CDLL(str(COMPILED)), "famkern_has_cuda_stages")


@functools.cache
def why_not_cuda() -> str | None:
    """None where the kernels in CUDA C++ can run on this machine's driver, otherwise the reason why not."""
    if not has_cuda_stages():
        return "CUDA C++ was not built: there was no nvcc, or it failed; FAMKERN_CUDA=1 pip install -v shows how"
    versions = (ctypes.c_int * 2)()
    ctypes.CDLL(str(COMPILED)).famkern_cuda_versions(versions)
    driver, compiler = (f"{version // 1000}.{version % 1000 // 10}" for version in versions)
    if versions[0] < versions[1]:
        return f"CUDA C++ was built by CUDA {compiler}, and the driver knows {driver}; update it, or build by an older nvcc"
    return None


@functools.cache
def announce(what: str, reason: str) -> None:
    """Say in the log, once for each reason, what runs slower than it could, and why."""
    logging.getLogger("famkern").warning("%s, slower: %s", what, reason)


def announce_missing_kernels() -> None:
    """Say once, in the log, that the compiled CPU kernels are not in use and why; nothing if they are."""
    if _REASON is not None:
        announce("running without compiled CPU kernels", _REASON)


@functools.cache
def instruction_set() -> str:
    """Instruction set of the CPU kernels in use: "portable", "avx2", "avx512", or "none" without compiled kernels.

    Raises:
        ValueError: FAMKERN_CPU_ISA names an instruction set that does not exist or that this CPU lacks.
    """
    if _REASON is not None:
        return "none"
    answer = _text("famkern_instruction_set")
    if answer.startswith("FAMKERN_CPU_ISA"):  # the complaint about its value
        raise ValueError(answer)
    return answer


def cpu_features() -> str:
    """Vector extensions that this CPU has, of those that there are kernels for; needs the compiled kernels."""
    return _text("famkern_cpu_features")


@functools.cache
def workspace_query(function: str, arguments: int) -> Callable[..., int]:
    """A function of _C.so that tells bytes from so many whole numbers; needs the compiled kernels."""
    query = getattr(ctypes.CDLL(str(COMPILED)), function)
    query.argtypes, query.restype = [ctypes.c_int64] * arguments, ctypes.c_int64
    return query  # type: ignore[no-any-return]


def _text(function: str) -> str:
    """What a function of _C.so without arguments says."""
    query = getattr(ctypes.CDLL(str(COMPILED)), function)
    query.restype = ctypes.c_char_p
    return query().decode()
