"""How much memory there is, for this process, here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil

from ..numeric import is_whole

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(size: int | str) -> int:
    """Bytes in `size`: an int, or text such as "1GiB", "256 MiB", "2GB" or "1.5G".

    Raises:
        ValueError: if it is no positive size.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", size.upper())
        if match is None or match[2] == "I":
            raise ValueError(f'a memory bound is a number of bytes or a size such as "1GiB" or "500MB", not {size!r}')
        value = float(match[1]) * _UNITS[match[2]]
        size = int(value) if value < 1 << 62 else 1 << 62
    if not is_whole(size) or not 0 < size < 1 << 62:
        raise ValueError(f"a memory bound is a positive whole number of bytes, not {size!r}")
    return int(size)


def format_bytes(size: float) -> str:
    """A size for people to read, such as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def available_memory() -> int:
    """Bytes that this process can still allocate: the machine's, or its control group's if that is less."""
    headroom = _cgroup_headroom(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([psutil.virtual_memory().available, *headroom])


def peak_bytes() -> int:
    """Resident memory of this process at its greatest so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _cgroup_headroom(membership: Path, root: Path) -> list[int]:
    """Bytes left under the limit of each control group that holds this process and has one (versions 1 and 2)."""
    left: list[int] = []
    if not membership.is_file():
        return left
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        # In a container the path is the host's and the group is mounted at the root: walk up to what exists.
        folder = base / path.strip("/")
        for group in (folder, *(parent for parent in folder.parents if parent == base or base in parent.parents)):
            limit, usage = group / names[0], group / names[1]
            if limit.is_file() and usage.is_file() and (text := limit.read_text().strip()).isdigit():
                statistics = group / "memory.stat"
                lines = statistics.read_text().splitlines() if statistics.is_file() else []
                cache = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
                left.append(max(0, int(text) - int(usage.read_text()) + cache))
    return left
