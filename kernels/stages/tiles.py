"""How the kernels of one width and precision are launched: by default as the compiler's reports say, or measured.

FAMKERN_AUTOTUNE=1 measures a few tiles on the block stage, 15 of the student's 20, when a width and precision first run
on a kind of GPU, and keeps the fastest in a file, XDG_CACHE_HOME/famkern/tiles.json (~/.cache without it). Tiles of
other lanes or warps add the sums of a row in another order: the last bits then are those of the tile that was chosen.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch


@dataclasses.dataclass(frozen=True)
class Tile:
    """How the kernels of one width and precision are launched."""

    lanes: int  # M
    taps: int  # TAPS
    warps: int
    programs: int  # resident together on a multiprocessor
    block_programs: int  # of the block stage, whose kernel has fewer registers
    registers: int | None = None  # of a thread at most; the compiler's own choice may spill though there are more

    @property
    def options(self) -> dict[str, int | None]:
        """Of a launch. One stage deep: a load of the next step must not move before the barrier."""
        return {"num_warps": self.warps, "num_stages": 1, "maxnreg": self.registers}

    def over_windows(self) -> Tile:
        """For means over windows, whose kernels need more registers."""
        programs = {"programs": min(self.programs, 2), "block_programs": min(self.block_programs, 2)}
        return dataclasses.replace(self, registers=None, **programs)


# Chosen by what the compiler reports, without a measurement on a GPU: as many lanes as registers hold without spills, for
# the halo costs 4 of M columns in a block stage and 6 at a group's end; then as many programs as registers allow, to which
# tests/kernels holds them. Keys: channels, bytes of a map's number.
TILES = {
    (16, 2): Tile(lanes=128, taps=4, warps=4, programs=3, block_programs=4),
    (32, 2): Tile(lanes=64, taps=2, warps=4, programs=3, block_programs=4),
    (64, 2): Tile(lanes=64, taps=1, warps=4, programs=3, block_programs=3, registers=168),
    (16, 4): Tile(lanes=128, taps=1, warps=8, programs=1, block_programs=3),
    (32, 4): Tile(lanes=64, taps=1, warps=4, programs=3, block_programs=3, registers=168),
    (64, 4): Tile(lanes=64, taps=1, warps=8, programs=1, block_programs=1, registers=255),
}

Measure = Callable[[Tile], float]  # milliseconds

# What was chosen or is being measured: name of a GPU, channels, dtype.
_chosen: dict[tuple[str, int, torch.dtype], Tile] = {}
_lock = threading.RLock()  # other threads wait for what is being measured


def space(channels: int, itemsize: int) -> list[Tile]:
    """The default and its neighbours: where a GPU may differ from what registers alone say.

    Half of the lanes, for less to keep in registers and more halo; the other number of warps, for fewer registers a
    thread and more threads to hide loads; one more or one fewer program for the same.
    """
    default = TILES[channels, itemsize]
    tiles = [default]
    for lanes in (default.lanes, default.lanes // 2):
        for warps in (4, 8):
            for more in (-1, 0, 1):
                block_programs = default.block_programs + more
                if block_programs < 1 or block_programs * warps > 32:  # half of the warps that there may be
                    continue
                programs = max(1, default.programs + more)
                registers = default.registers if (lanes, warps) == (default.lanes, default.warps) else None
                tiles.append(
                    dataclasses.replace(
                        default,
                        lanes=lanes,
                        warps=warps,
                        programs=programs,
                        block_programs=block_programs,
                        registers=registers,
                    )
                )
    return list(dict.fromkeys(tiles))


def is_tuned() -> bool:
    """Whether tiles are measured."""
    return os.environ.get("FAMKERN_AUTOTUNE") == "1"


def tile_for(channels: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile of a width and precision on a device; under FAMKERN_AUTOTUNE=1 measured the first time."""
    if not is_tuned() or device.type != "cuda":
        return TILES[channels, dtype.itemsize]
    key = (torch.cuda.get_device_name(device), channels, dtype)
    with _lock:
        if key not in _chosen:
            from .measure import block_stage  # it launches kernels with tiles from here

            def measure(tile: Tile) -> float:
                _chosen[key] = tile
                try:
                    return block_stage(channels, dtype, device)
                finally:
                    del _chosen[key]

            _chosen[key] = tuned(key, measure)
        return _chosen[key]


def cache_path() -> Path:
    """The file with the tiles that were chosen on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "famkern" / "tiles.json"


def tuned(key: tuple[str, int, torch.dtype], measure: Measure) -> Tile:
    """The fastest tile of the space, from the file if it is there.

    Raises:
        ValueError: the file is not one of tiles.
    """
    path = cache_path()
    known = _read(path)
    name = f"{key[0]}, {key[1]} channels, {str(key[2]).removeprefix('torch.')}"
    if name not in known:
        times = {tile: measure(tile) for tile in space(key[1], key[2].itemsize)}
        known[name] = min(times, key=times.__getitem__)  # the first of equals, so the default rather than another
        logging.getLogger("famkern").info("%s: %s", name, known[name])
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({n: dataclasses.asdict(tile) for n, tile in known.items()}, indent=1))
        os.replace(new, path)
    return known[name]


def _read(path: Path) -> dict[str, Tile]:
    if not path.exists():
        return {}
    try:
        return {name: Tile(**numbers) for name, numbers in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold tiles of kernels ({error}); delete it to measure them again") from error
