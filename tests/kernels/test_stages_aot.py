"""famkern.kernels.stages: every kernel compiles for the GPUs we name within its registers, and none spills them.

FAMKERN_ALL_KERNELS=1 compiles every width and precision for every GPU, which takes minutes; otherwise the kernels of the
default network for all of them, and of the others those of most registers.
"""

from __future__ import annotations

import os

import pytest

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton's compiler"),
    pytest.mark.skipif(
        not triton.__version__.startswith("3.6."), reason="needs Triton 3.6, whose register use the limits are for"
    ),
]

from famkern.kernels import aot, stages  # noqa: E402

MAX_SHARED = 48 * 1024  # what every GPU gives a program without asking
REGISTERS, SHARED = 65536, 227 * 1024  # of a multiprocessor of sm_90
KERNELS = {
    "head": stages._head,
    "block": stages._block,
    "group": stages._group,
    "last_group": stages._group,
    "tail": stages._tail,
}
ANY = (255,) * len(KERNELS)  # what a thread has
# Channels, element -> registers of a thread at most, in the order of KERNELS, on sm_90 and on older ones.
LIMITS = {
    (16, "*fp16"): ((146, 106, 152, 96, 139), (168, 172, 254, 128, 195)),
    (16, "*bf16"): ((146, 106, 152, 96, 140), ANY),
    (32, "*fp16"): ((118, 114, 125, 90, 111), ANY),
    (64, "*fp16"): ((116, 134, 168, 128, 151), ANY),
    (16, "*fp32"): ((128, 64, 158, 80, 128), ANY),
    (32, "*fp32"): ((167, 107, 122, 114, 126), ANY),
    (64, "*fp32"): (ANY, ANY),
}


def arguments(name: str, C: int, element: str) -> dict[str, object]:
    """As the functions of famkern.kernels.stages launch a kernel."""
    tile = stages.TILES[C, 4 if element == "*fp32" else 2]
    conv, last = (element, "*fp32"), name == "last_group"
    given = {
        "image": "*fp32",
        "maps": (element,) * (2 if name == "block" else 3),
        "groups": (element,) * 3,
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
    given |= dict.fromkeys(("pre", "conv", "post1", "post2"), conv)
    given |= {"C": C, "M": tile.lanes, "TAPS": tile.taps, "LAST": last, "PICTURE": stages.PICTURE, "RGB": stages.RGB}
    return {p.name: given.get(p.name, "i32") for p in KERNELS[name].params}


def compiled(name: str, C: int, element: str, capability: int) -> aot.Resources:
    tile = stages.TILES[C, 4 if element == "*fp32" else 2]
    return aot.resources(KERNELS[name], arguments(name, C, element), capability=capability, **tile.options)


def chosen(name: str, C: int, element: str, capability: int) -> bool:
    if os.environ.get("FAMKERN_ALL_KERNELS") == "1" or (C, element) == (16, "*fp16"):
        return True
    return capability == 90 and name == "group"


@pytest.mark.parametrize("capability", aot.CAPABILITIES)
@pytest.mark.parametrize(("C", "element"), LIMITS)
@pytest.mark.parametrize("name", KERNELS)
def test_no_kernel_spills(name, C, element, capability) -> None:
    if not chosen(name, C, element, capability):
        pytest.skip("FAMKERN_ALL_KERNELS=1 compiles it")
    used = compiled(name, C, element, capability)
    print(f"sm_{capability} {C} {element[1:]} {name}: {used}")
    assert (used.spills, used.stack, used.local) == (0, 0, 0)
    assert used.registers <= LIMITS[C, element][capability != 90][list(KERNELS).index(name)]
    assert used.shared <= MAX_SHARED
    assert (used.tensor_core > 0) == (element != "*fp32")
    if capability == 90:  # as many programs as are counted on have room
        tile = stages.TILES[C, 4 if element == "*fp32" else 2]
        programs = tile.block_programs if name == "block" else tile.programs
        assert programs * tile.warps * 32 * -(-used.registers // 8) * 8 <= REGISTERS
        assert programs * used.shared <= SHARED


def test_the_sum_over_blocks_compiles() -> None:
    given = {"partials": "*fp32", "sums": "*fp64", "C": 64, "BLOCKS": stages.SUM_BLOCKS}
    used = aot.resources(
        stages._sum, {p.name: given.get(p.name, "i32") for p in stages._sum.params}, capability=80, num_warps=1
    )
    assert (used.spills, used.stack, used.local) == (0, 0, 0)


def test_rings_are_read_after_they_were_written() -> None:
    """The compiler moves no load of a ring across the barrier that ends a step, nor reads one as a constant."""
    code = aot.build(stages._block, arguments("block", 16, "*fp16"), capability=90, **stages.TILES[16, 2].options).asm
    assert "ld.global.nc" not in code["ptx"]
    body = code["ttgir"].split("scf.for", 1)[1]
    body = body[: body.index("scf.yield") if "scf.yield" in body else body.index("tt.return")]
    after = body[body.rindex("gpu.barrier") :]
    assert "tt.load" not in after
    assert "tt.store" not in after
