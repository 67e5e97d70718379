"""The compiled stages compute what the formulas say, whatever the size, the cut into bands, and the threads.

Set FAMKERN_CPU_ISA to run these on another instruction set; `test_every_instruction_set` does so for all of them.
"""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from famkern.ops import formulas, library, route
from famkern.ops.stage import stage

from ..stage_cases import OTHER_INSTRUCTION_SETS, STAGES, Case

pytestmark = pytest.mark.skipif(library.why_not_compiled() is not None, reason="no compiled kernels")

# rows x columns: one pixel, lines, less than a tile, tiles and one more, primes, more than one block of columns
SIZES = [(1, 1), (1, 19), (23, 1), (3, 2), (4, 4), (5, 9), (13, 67), (5, 523), (31, 37)]


def bound(expected):
    """Errors that Winograd's tiles may make beside the largest value; measured at most half of it."""
    return 2e-5 * expected.abs().max().clamp_min(1)


def same_bits(a, b):
    return all(torch.equal(x, y) for parts in zip(a, b, strict=True) for x, y in zip(*parts, strict=True))


@pytest.mark.parametrize("channels", route.CHANNELS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_computes_its_formulas(name, size, channels):
    case = Case(name, channels, 2, *size)
    outputs, sums = case.run()
    expected_outputs, expected_sums = case.expected()
    for result, expected in zip(outputs, expected_outputs, strict=True):
        assert (result - expected).abs().max() < bound(expected)
    for result, expected in zip(sums, expected_sums, strict=True):
        assert (result - expected).abs().max() < bound(expected_outputs[-1]) * size[1]


@pytest.mark.parametrize("channels", route.CHANNELS)
@pytest.mark.parametrize(
    ("size", "cell"), [((1, 19), 4), ((23, 1), 12), ((13, 67), 16), ((5, 603), 48), ((53, 101), 100), ((5, 700), 600)]
)
@pytest.mark.parametrize("name", STAGES)
def test_gates_differ_from_place_to_place_and_sums_are_of_cells(name, size, cell, channels):
    """Formulas with windows: one block of columns and several, cells larger than the picture and smaller than a run."""
    case = Case(name, channels, 2, *size, cell=cell)
    outputs, sums = case.run(band=8)
    expected_outputs, expected_sums = case.expected()
    for result, expected in zip(outputs, expected_outputs, strict=True):
        assert (result - expected).abs().max() < bound(expected)
    for result, expected in zip(sums, expected_sums, strict=True):
        assert (result - expected).abs().max() < bound(expected_outputs[-1]) * size[1]


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", STAGES)
def test_maps_stored_in_16_bits_are_rounded_once(name, storage):
    """Arithmetic and sums are those of float32: only what is written is rounded."""
    case = Case(name, 16, 1, 11, 29, storage=storage)
    outputs, sums = case.run()
    exact = Case(name, 16, 1, 11, 29, storage=storage)
    exact.maps, exact.storage = [m.float() for m in case.maps], torch.float32
    expected_outputs, expected_sums = exact.run()
    assert same_bits(
        (outputs, sums), ([e.to(o.dtype) for e, o in zip(expected_outputs, outputs, strict=True)], expected_sums)
    )


@pytest.mark.parametrize("name", STAGES)
def test_bands_and_threads_leave_the_bits_alone(name):
    threads = torch.get_num_threads()
    try:
        for seed in range(8):
            generator = torch.Generator().manual_seed(seed)
            rows, width = (int(torch.randint(1, n, (), generator=generator)) for n in (70, 560))
            storage = (torch.float32, torch.float16, torch.bfloat16)[seed % 3]
            cell = (None, 16, 48)[seed % 3]
            case = Case(name, 16, 1 + seed % 2, rows, width, storage=storage, seed=seed, cell=cell)
            torch.set_num_threads(1)
            expected = case.run()
            for band, count in ((None, 2), (4, 1), (8, 2), (12, 3), (36, 5)):
                torch.set_num_threads(count)
                assert same_bits(case.run(band=band), expected), (rows, width, band, count)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", STAGES)
def test_a_halo_of_the_bare_reach_is_right_too(name):
    """Fewer rows than whole tiles, and bands that start anywhere: same values, other roundings."""
    case = Case(name, 16, 1, 29, 23)
    (outputs, sums), (expected_outputs, expected_sums) = case.run(band=3, halo=3), case.expected()
    for result, expected in zip((*outputs, *sums), (*expected_outputs, *expected_sums), strict=True):
        assert (result - expected).abs().max() < 1e-3


@pytest.mark.parametrize("name", STAGES)
def test_pictures_of_a_batch_do_not_meet(name):
    case = Case(name, 16, 3, 9, 14)
    outputs, sums = case.run()
    for index in range(3):
        alone = Case(name, 16, 1, 9, 14)
        alone.weights = case.weights
        alone.gate = None if case.gate is None else case.gate[index : index + 1]
        alone.maps = [m[index : index + 1].contiguous() for m in case.maps]
        assert same_bits(alone.run(), [[t[index : index + 1] for t in part] for part in (outputs, sums)])


def test_a_stage_runs_without_the_interpreter_lock():
    case = Case("block", 16, 1, 1200, 1200)
    ticks, done = [0], threading.Event()

    def tick():
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks[0]
    case.run()
    during = ticks[0] - before
    done.set()
    thread.join()
    assert during > 5


def test_a_forked_process_has_helpers_of_its_own():
    """fork() does not copy threads; a call in the child must not wait for those of its parent."""
    case = Case("block", 16, 1, 40, 300)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected, _ = case.run()
        (x, z), sums = case.results(40, storage=torch.float32)  # by threads that the child does not have
        child = os.fork()
        if child == 0:
            stage("block", case.maps, case.gate, case.weights, [x, z], sums, (0, 0, case.cell, 0))
            os._exit(
                0 if (z.numpy() == expected[1].numpy()).all() else 1
            )  # torch.equal would hang: its threads are gone
        _, status = os.waitpid(child, 0)
        assert status == 0
    finally:
        torch.set_num_threads(threads)


def test_several_threads_may_call_at_once():
    cases = [Case("block", 16, 1, 60, 200, seed=seed) for seed in range(4)]
    expected = [case.run() for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(same_bits, pool.map(Case.run, cases * 3), expected * 3))


def test_large_maps_are_stored_past_the_caches_with_the_same_bits():
    """Results that are part of a large buffer take another kind of store."""
    case = Case("block", 16, 1, 8, 300)
    expected, _ = case.run()
    x, z = (torch.empty(1, 400, 300, 16)[:, 96:104] for _ in range(2))
    _, sums = case.results(8, storage=torch.float32)
    stage("block", case.maps, case.gate, case.weights, [x, z], sums, (0, 0, case.cell, 0))
    assert torch.equal(x, expected[0])
    assert torch.equal(z, expected[1])


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_the_tail_takes_any_number_of_groups(groups):
    case = Case("tail", 32, 1, 7, 10, repeated=groups)
    assert (case.run()[0][0] - case.expected()[0][0]).abs().max() < 2e-5


@pytest.mark.parametrize("channels", [8, 24])
def test_other_channels_and_float64_take_the_reference_and_the_log_says_so(channels, caplog):
    route.library.announce.cache_clear()
    assert route.choose(torch.device("cpu"), channels, torch.float32) is route.REFERENCE
    assert f"16, 32 or 64 channels, not {channels}" in caplog.text
    assert route.choose(torch.device("cpu"), 16, torch.float64) is route.REFERENCE
    assert "float32, not torch.float64" in caplog.text


def test_the_reference_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("FAMKERN_REFERENCE", "1")
    case = Case("block", 16, 1, 6, 7)
    outputs, _ = case.run()
    x, z = (m.clone() for m in case.maps)
    expected = formulas.finish_block(x, z, case.gate, *case.weights[:4])
    assert torch.equal(outputs[0], expected)


def test_what_does_not_fit_is_refused():
    case = Case("block", 16, 1, 6, 7)
    case.maps[1] = case.maps[1][:, :, :6]
    with pytest.raises(RuntimeError, match="of the shape in the operator's contract"):
        case.run()
    case = Case("block", 16, 1, 6, 7)
    case.maps[1] = case.maps[1].half()
    with pytest.raises(RuntimeError, match="same dtype"):
        case.run()
    case = Case("block", 16, 1, 6, 7)
    case.weights = (*case.weights[:4], case.weights[4][..., :2], *case.weights[5:])
    with pytest.raises(RuntimeError, match="conv1"):
        case.run()
    case = Case("block", 16, 1, 6, 7, cell=4)
    case.gate = case.gate[:, :2]
    with pytest.raises(RuntimeError, match="one for every corner of cells"):
        case.run()
    with pytest.raises(RuntimeError, match="cell: a multiple of 4"):
        Case("block", 16, 1, 6, 7, cell=6).run()
    for left_out in (slice(1), slice(1, None)):
        case = Case("block", 16, 1, 6, 7)
        case.maps, case.operands = case.maps[left_out], case.operands[left_out]
        with pytest.raises(RuntimeError, match="z: missing"):
            case.run()
    case = Case("last_group", 16, 1, 6, 7)
    case.weights = [*case.weights, case.weights[-1]]
    with pytest.raises(RuntimeError, match="more maps, weights, outputs or sums than its kind has"):
        case.run()
    with pytest.raises(RuntimeError, match="no compiled kernel of the kind roof"):
        torch.ops.famkern.stage("roof", case.maps, None, [], case.maps, [], [0, 0, 8, 0])


@pytest.mark.parametrize("name", STAGES)
def test_opcheck(name):
    case = Case(name, 16, 1, 5, 6)
    outputs, sums = case.run()
    place = [0, 0, case.cell, 0]
    arguments = (name, case.maps, case.gate, case.weights, outputs, sums, place)
    torch.library.opcheck(torch.ops.famkern.stage.default, arguments)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_one_node_of_a_compiled_graph(name):
    case = Case(name, 16, 1, 9, 7, cell=4)
    compiled = torch.compile(stage, fullgraph=True, backend="aot_eager")
    assert same_bits(case.run(compiled), case.run())


@pytest.mark.parametrize("isa", OTHER_INSTRUCTION_SETS)
@pytest.mark.skipif("FAMKERN_CPU_ISA" in os.environ, reason="this is such a run")
def test_every_instruction_set(isa):
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "formulas and 16 or leave_the_bits"]
    run = subprocess.run(
        command, env=os.environ | {"FAMKERN_CPU_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
