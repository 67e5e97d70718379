"""famkern.kernels.affinity: every kernel compiles for the GPUs we name, and none spills registers."""

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

from famkern.kernels import affinity, aot  # noqa: E402

MAX_SHARED = 48 * 1024  # what every GPU gives a program without asking


def launches(element: str, maps: str) -> dict[str, tuple[object, dict, int]]:
    """Name -> kernel, arguments and num_stages as the functions of famkern.kernels.affinity launch them."""
    tiles = {"ROWS": affinity.ROWS, "BLOCK": affinity.POSITIONS}
    precision = "ieee" if maps == "*fp64" else "tf32x3"

    def pool(teacher: int, student: int, pair: bool, normalize: bool) -> dict:
        spans = {"S_POOL": student, "S_SPAN": up(student), "T_POOL": teacher, "T_SPAN": up(teacher)}
        pointers = {"student": element, "teacher": element, "maps": maps, "inverse": maps}
        return pointers | spans | {"PAIR": pair, "NORMALIZE": normalize, "BLOCK": affinity.POSITIONS}

    def spread(pool: int, combine: bool) -> dict:
        pointers = {"maps": maps, "coefficients": "*fp64", "gradient": element}
        sizes = {
            "POOL": pool,
            "SPAN": up(pool),
            "BLOCK": max(16, 256 // up(pool)),
            "TILE_CHANNELS": affinity.TILE_CHANNELS,
        }
        return pointers | sizes | {"COMBINE": combine, "ROWS": affinity.ROWS}

    def up(pool: int) -> int:
        return 1 << (pool - 1).bit_length()

    l1 = {"maps": maps, "TF32": precision, "scale": "*fp64", "gradient": maps, "partials": "*fp64"}
    return {
        "pool 8/4": (affinity._pool, pool(8, 4, True, False), 3),
        "pool 8/4 normalized": (affinity._pool, pool(8, 4, True, True), 3),
        "pool 3/16 normalized": (affinity._pool, pool(3, 16, True, True), 3),
        "pool alone 1": (affinity._pool, pool(1, 1, False, False), 3),
        "gram": (affinity._gram, tiles | {"maps": maps, "partials": "*fp64"}, 1),
        "spread 4": (affinity._spread, spread(4, True), 1),
        "spread 8": (affinity._spread, spread(8, True), 1),
        "spread 5": (affinity._spread, spread(5, False), 1),
        "spread 16": (affinity._spread, spread(16, True), 1),
        "l1 sum": (affinity._l1_sum, tiles | l1, 3),
        "l1 gradient, few channels": (
            affinity._l1_gradient,
            l1 | tiles | {"OWN": 16, "BLOCK": affinity.L1_POSITIONS},
            1,
        ),
        "l1 gradient": (
            affinity._l1_gradient,
            l1 | tiles | {"OWN": affinity.L1_ROWS, "BLOCK": affinity.L1_POSITIONS},
            1,
        ),
    }


@pytest.mark.parametrize("capability", aot.CAPABILITIES if os.environ.get("FAMKERN_ALL_KERNELS") == "1" else [80, 90])
@pytest.mark.parametrize(
    ("element", "maps"),
    [("*fp32", "*fp32"), ("*fp16", "*fp32"), pytest.param("*fp64", "*fp64", marks=pytest.mark.slow)],
)
def test_no_kernel_spills(capability, element, maps) -> None:
    for name, (kernel, given, stages) in launches(element, maps).items():
        if element == "*fp16" and name not in ("pool 8/4", "spread 4"):
            continue  # the others do not see it, or as float32
        arguments = {p.name: given.get(p.name, "i32") for p in kernel.params}
        used = aot.resources(kernel, arguments, capability=capability, num_stages=stages)
        print(f"sm_{capability} {element[1:]} {name}: {used}")
        assert (used.spills, used.stack, used.local) == (0, 0, 0), name
        assert used.shared <= MAX_SHARED, name
        if kernel in (affinity._l1_sum, affinity._l1_gradient) and maps == "*fp32":
            assert used.tensor_core > 0, name


def test_a_spill_would_be_seen() -> None:
    wasteful = affinity._l1_gradient, launches("*fp32", "*fp32")["l1 gradient"][1] | {"BLOCK": 64}
    arguments = {p.name: wasteful[1].get(p.name, "i32") for p in wasteful[0].params}
    used = aot.resources(wasteful[0], arguments, capability=80, num_stages=3)
    assert used.spills > 0
    assert used.stack > 0
