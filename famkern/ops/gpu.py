"""Whether the kernels for GPUs are used on the GPU at hand: where they run at all, once they were seen to be right there.

They are proved without a GPU, by an emulator and an interpreter; what only the hardware shows is left. So a process of its
own, which may crash, compares them with float64 (famkern/selftest.py). A success is kept in the user's cache until the GPU,
its driver, PyTorch, Triton or famkern change.

FAMKERN_GPU=1    use them unasked
FAMKERN_GPU=0    do not use them
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import torch

from .library import COMPILED

LEAST_CAPABILITY = (8, 0)  # tensor cores with bfloat16; compiled and tested from there on
PACKAGE = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "famkern.selftest")
LIMIT = 540  # seconds for the trial; processes that train together wait for each other for ten minutes
DRIVER = Path("/proc/driver/nvidia/version")

logger = logging.getLogger("famkern")
_lock = threading.Lock()


def why_not(device: torch.device) -> str | None:
    """None where the kernels are used on this GPU, otherwise the reason why they are not.

    The first question in a process may take the time of a trial.

    Raises:
        ValueError: for a FAMKERN_GPU that says neither.
    """
    setting = os.environ.get("FAMKERN_GPU")
    if setting == "0":
        return "FAMKERN_GPU=0 asks for it"
    if setting not in (None, "1"):
        raise ValueError(
            f"FAMKERN_GPU={setting}: 1 to use the kernels for GPUs, 0 not to, unset to have them tried first"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    reason = _why_impossible(index)
    if reason is None and setting is None:
        with _lock:  # threads wait for one trial
            reason = _tried(index)
    return reason


def available_memory(device: torch.device) -> int:
    """Bytes that PyTorch can allocate on this GPU: what is free, and what it keeps for itself and does not use.

    What it keeps for CUDA graphs is not among them: nothing else may use that.
    """
    free, _ = torch.cuda.mem_get_info(device)
    if torch.cuda.get_allocator_backend() != "native":
        return free
    index = torch.cuda.current_device() if device.index is None else device.index
    own = [s for s in torch.cuda.memory_snapshot() if s["device"] == index and tuple(s["segment_pool_id"]) == (0, 0)]
    return free + sum(segment["total_size"] - segment["active_size"] for segment in own)


@functools.cache
def _why_impossible(index: int) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "its kernels for GPUs need Triton; pip install triton"
    capability = torch.cuda.get_device_capability(index)
    if capability < LEAST_CAPABILITY:
        return f"its kernels need a GPU of compute capability 8.0, not {capability[0]}.{capability[1]}"
    return None


@functools.cache
def _tried(index: int) -> str | None:
    name, passed = torch.cuda.get_device_name(index), _cache() / _fingerprint(index)
    if os.path.exists(passed):  # unlike Path's, it is silent about a folder that may not be read
        return None
    logger.warning("trying the kernels on %s, for a few minutes at most; once, unless they fail", name)
    problem = _try(index)
    if problem is not None:  # not kept: it may have been want of memory
        return f"they fail on {name} ({problem}); FAMKERN_GPU=0 spares the trial, FAMKERN_GPU=1 uses them all the same"
    try:
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text(f"famkern's kernels passed their trial on {name}\n")
    except OSError as error:
        logger.warning("the kernels will be tried anew by every process: %s cannot be written (%s)", passed, error)
    return None


def _try(index: int) -> str | None:
    """Run the kernels in a process of its own; None, or what went wrong in a line."""
    # The same famkern as here: paths as this process has them, and no other folder before them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)}
    # What takes long, and what makes float32 another precision.
    for name in ("FAMKERN_AUTOTUNE", "NVIDIA_TF32_OVERRIDE"):
        environment.pop(name, None)
    try:
        result = subprocess.run(
            [*COMMAND, f"cuda:{index}"],
            cwd=PACKAGE.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    except OSError as error:
        return f"{COMMAND[0] or 'Python'} does not start: {error}"
    if result.returncode == 0:
        return None
    *_, last = ["no message", *(result.stdout + result.stderr).strip().splitlines()]
    return last.strip() if result.returncode == 1 else f"exit code {result.returncode} after: {last.strip()}"


def _fingerprint(index: int) -> str:
    """Of everything that the answer depends on."""
    digest = hashlib.sha256()
    versions = [f"{name} {_version(name)}" for name in ("torch", "triton", "pytorch-triton")]
    driver = DRIVER.read_text() if DRIVER.exists() else ""
    about = [torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index), torch.version.cuda, driver]
    digest.update(repr([*versions, *about]).encode())
    kernels = importlib.util.find_spec("famkern.kernels")
    folders = {PACKAGE, *map(Path, (kernels and kernels.submodule_search_locations) or ())}
    sources = {path for folder in folders for path in folder.rglob("*.py")}
    for path in [*sorted(sources), *([COMPILED] if COMPILED.exists() else [])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # unlike Path's, it needs no home
    return Path(folder) / "famkern" / "gpus"
