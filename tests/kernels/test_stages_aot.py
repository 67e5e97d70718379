"""famkern.kernels.stages: every kernel compiles for the GPUs we name within its registers, and none spills them.

FAMKERN_ALL_KERNELS=1 compiles every width and precision for every GPU, which takes minutes; otherwise the kernels of the
default network for all of them, and of the others those of most registers.
"""

from __future__ import annotations

import itertools
import os

import pytest

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton's compiler"),
    pytest.mark.skipif(
        not triton.__version__.startswith("3.6."), reason="needs Triton 3.6, whose register use the limits are for"
    ),
]

from famkern.kernels import aot  # noqa: E402
from famkern.kernels.stages import blocks, launch, levels, pictures, tiles  # noqa: E402

MAX_SHARED = 48 * 1024  # what every GPU gives a program without asking
REGISTERS, SHARED = 65536, 227 * 1024  # of a multiprocessor of sm_90
KERNELS = {
    "head": pictures._head,
    "block": blocks._block,
    "group": blocks._group,
    "last_group": blocks._group,
    "tail": pictures._tail,
    "down": levels._down,
    "up": levels._up,
    "u_tail": pictures._u_tail,
}
ANY = (255,) * len(KERNELS)  # what a thread has
# Channels, element -> registers of a thread at most, in the order of KERNELS, on sm_90 and on older ones.
LIMITS = {
    (16, "*fp16"): ((138, 110, 154, 96, 153, 128, 150, 146), (168, 172, 254, 128, 195, 140, 168, 255)),
    (16, "*bf16"): ((138, 110, 154, 96, 153, 128, 150, 146), ANY),
    (32, "*fp16"): ((128, 128, 128, 128, 128, 128, 158, 128), ANY),
    (64, "*fp16"): ((168,) * len(KERNELS), (168,) * len(KERNELS)),
    (16, "*fp32"): ((158, 80, 158, 80, 158, 80, 128, 158), ANY),
    (32, "*fp32"): ((168,) * len(KERNELS), (168,) * len(KERNELS)),
    (64, "*fp32"): (ANY, ANY),
}


def arguments(name: str, C: int, element: str, windows: bool = False) -> dict[str, object]:
    """As the functions of famkern.kernels.stages launch a kernel."""
    tile = tiles.TILES[C, 4 if element == "*fp32" else 2]
    conv, last = (element, "*fp32"), name == "last_group"
    given = {
        "image": "*fp32",
        "maps": (element,) * (2 if name == "block" else 3),
        "groups": (element,) * 3,
        **dict.fromkeys(("fine", "coarse", "skip", "fuse"), element),
        "gate": "*fp32",
        "normalisation": ("*fp32",) * 2,
        "attention": ("*fp32",) * 4,
        "conv1": None if last else conv,
        "conv2": None if last else conv,
        "outputs": (element, None if last else element),
        "out": "*fp32",
        "r_sums": "*fp32",
        "z_sums": None if last else "*fp32",
        "scratch": element,
    }
    given |= {"WINDOWS": windows} | dict.fromkeys(("pre", "conv", "post", "post1", "post2", "down", "up"), conv)
    # As the U-shaped student has them: half as many channels at twice the scale, twice as many at half of it.
    given |= {"INPUTS": max(16, C // 2) if name == "down" else min(64, 2 * C), "GAIN": True}
    given |= {"C": C, "M": tile.lanes, "TAPS": tile.taps, "LAST": last, "PICTURE": launch.PICTURE, "RGB": launch.RGB}
    return {p.name: given.get(p.name, "i32") for p in KERNELS[name].params}


def tile_of(C: int, element: str, windows: bool) -> tiles.Tile:
    tile = tiles.TILES[C, 4 if element == "*fp32" else 2]
    return tile.over_windows() if windows else tile


def compiled(name: str, C: int, element: str, capability: int, windows: bool = False) -> aot.Resources:
    tile = tile_of(C, element, windows)
    return aot.resources(KERNELS[name], arguments(name, C, element, windows), capability=capability, **tile.options)


def compilations() -> list[tuple[bool, str, int, str, int]]:
    """Whether over windows, kernel, channels, element and capability; all, or those that are chosen."""
    everything = itertools.product([False, True], KERNELS, LIMITS, aot.CAPABILITIES)
    cases = [(windows, name, *width, capability) for windows, name, width, capability in everything]
    return cases if os.environ.get("FAMKERN_ALL_KERNELS") == "1" else [case for case in cases if chosen(*case)]


def chosen(windows: bool, name: str, C: int, element: str, capability: int) -> bool:
    new = name in ("down", "up", "u_tail")
    if (C, element) == (16, "*fp16") and capability in ((90,) if new else (80, 90) if windows else (80, 86, 89, 90)):
        return True
    if windows or capability != 90:
        return (name, windows, capability) == ("tail", True, 90)
    return name == "group" or (name, C) in (("down", 32), ("down", 64), ("up", 32))  # of the U-shaped student


@pytest.mark.parametrize(("windows", "name", "C", "element", "capability"), compilations())
def test_no_kernel_spills(windows, name, C, element, capability) -> None:
    used = compiled(name, C, element, capability, windows)
    print(f"sm_{capability} {C} {element[1:]} {name}{', windows' * windows}: {used}")
    assert (used.spills, used.stack, used.local) == (0, 0, 0)
    limits = ANY if windows else LIMITS[C, element][capability != 90]
    assert used.registers <= limits[list(KERNELS).index(name)]
    assert used.shared <= MAX_SHARED
    assert (used.tensor_core > 0) == (element != "*fp32")
    if capability == 90:  # as many programs as are counted on have room
        tile = tile_of(C, element, windows)
        resident = tile.block_programs if name == "block" else tile.programs
        assert resident * tile.warps * 32 * -(-used.registers // 8) * 8 <= REGISTERS
        assert resident * used.shared <= SHARED


def test_the_sum_over_blocks_compiles() -> None:
    given = {"partials": "*fp32", "sums": "*fp64", "C": 64, "BLOCKS": launch.SUM_BLOCKS}
    used = aot.resources(
        blocks._sum, {p.name: given.get(p.name, "i32") for p in blocks._sum.params}, capability=80, num_warps=1
    )
    assert (used.spills, used.stack, used.local) == (0, 0, 0)


def test_rings_are_read_after_they_were_written() -> None:
    """The compiler moves no load of a ring across the barrier that ends a step, nor reads one as a constant."""
    code = aot.build(blocks._block, arguments("block", 16, "*fp16"), capability=90, **tiles.TILES[16, 2].options).asm
    assert "ld.global.nc" not in code["ptx"]
    body = code["ttgir"].split("scf.for", 1)[1]
    body = body[: body.index("scf.yield") if "scf.yield" in body else body.index("tt.return")]
    after = body[body.rindex("gpu.barrier") :]
    assert "tt.load" not in after
    assert "tt.store" not in after
