"""A picture size that comes again is captured and replayed: with a graph that only pretends, and on a GPU."""

import threading
import types

import pytest
import torch

import famkern
from famkern import engine
from famkern.engine import Checks, Graphs, key_of
from famkern.models import Student

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Computation:
    """after = 2 before, for 0 <= before <= 1; counts how often it was called from Python."""

    def __init__(self):
        self.calls = 0

    def __call__(self, before, after):
        self.calls += 1
        torch.mul(before, 2, out=after)
        checks = Checks(GPU)
        checks.require((before <= 1).all(), lambda: ValueError("beyond 1"))
        return checks


class Pretended:
    """Keeps what it captured and runs it when it is replayed, as a graph does with the kernels."""

    captured = 0

    def __init__(self, compute, before, after, place):
        Pretended.captured += 1
        assert place == CPU
        self.compute = compute

    def __call__(self, before, after):
        self.compute(before, after).look()


def pretending(most=4, capture=Pretended):
    return Graphs(most, capture, place=lambda device: device)


@pytest.fixture(autouse=True)
def none_captured():
    Pretended.captured = 0


def dehaze(graphs, key, compute, value):
    """As Dehazer does."""
    before, after = torch.full((2,), value), torch.zeros(2)
    if not graphs.replay(key, before, after):
        graphs.run(key, compute, before, after)
    return after.tolist()


def test_the_first_runs_as_it_is_the_second_is_captured_the_third_replayed():
    graphs, compute = pretending(), Computation()
    for turn, captured in enumerate((0, 1, 1, 1)):
        assert dehaze(graphs, "a", compute, turn / 4) == [turn / 2] * 2
        assert Pretended.captured == captured


def test_the_size_that_was_not_used_for_longest_is_dropped():
    graphs, compute = pretending(most=2), Computation()
    for key in "aabb":
        dehaze(graphs, key, compute, 0.5)
    assert Pretended.captured == 2
    dehaze(graphs, "a", compute, 0.5)  # b is now the older one
    dehaze(graphs, "c", compute, 0.5)
    dehaze(graphs, "a", compute, 0.5)
    assert Pretended.captured == 2
    dehaze(graphs, "b", compute, 0.5)  # new again, and c is gone
    dehaze(graphs, "b", compute, 0.5)
    assert Pretended.captured == 3


def test_what_does_not_hold_is_said_in_every_run():
    graphs, compute = pretending(), Computation()
    for _ in range(4):
        with pytest.raises(ValueError, match="beyond 1"):
            dehaze(graphs, "a", compute, 3.0)
        assert dehaze(graphs, "a", compute, 0.5) == [1.0, 1.0]
    assert Pretended.captured == 1


def test_a_capture_that_fails_is_an_error_and_is_tried_again():
    def failing(*_):
        raise MemoryError

    graphs, compute = pretending(capture=failing), Computation()
    dehaze(graphs, "a", compute, 0.5)
    with pytest.raises(MemoryError):
        dehaze(graphs, "a", compute, 0.5)
    assert dehaze(graphs, "a", compute, 0.5) == [1.0, 1.0]


def test_replays_of_several_threads_do_not_meet():
    inside, met = [], []

    class Slow(Pretended):
        def __call__(self, before, after):
            inside.append(1)
            met.append(len(inside))
            threading.Event().wait(0.005)
            super().__call__(before, after)
            inside.pop()

    graphs, compute = pretending(capture=Slow), Computation()
    dehaze(graphs, "a", compute, 0.0)
    dehaze(graphs, "a", compute, 0.0)
    results = {}

    def work(n):
        results[n] = dehaze(graphs, "a", compute, n / 8)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [n / 4] * 2 for n in range(8)}
    assert set(met) == {1}


def test_a_thread_does_not_capture_before_a_first_run_is_done():
    """Kernels are compiled and loaded in it, which a capture must not meet."""
    graphs, compute = pretending(), Computation()

    def first(before, after):
        other = threading.Thread(target=dehaze, args=(graphs, "a", compute, 0.5))
        other.start()
        other.join()
        assert Pretended.captured == 0
        return compute(before, after)

    graphs.run("a", first, torch.zeros(2), torch.zeros(2))
    assert compute.calls == 2
    dehaze(graphs, "a", compute, 0.5)
    assert Pretended.captured == 1


def test_a_first_run_that_breaks_off_counts_for_nothing():
    graphs, compute = pretending(), Computation()
    for _ in range(2):
        with pytest.raises(ValueError, match="beyond 1"):
            dehaze(graphs, "a", compute, 3.0)
    dehaze(graphs, "a", compute, 0.5)
    assert Pretended.captured == 0


def test_a_graph_is_for_a_tensor_that_lies_where_it_is_computed():
    def picture(device, shape=(4, 5, 3), dtype=torch.float16):
        return types.SimpleNamespace(shape=shape, dtype=dtype, device=device)

    key = key_of(picture(GPU), GPU)
    assert key is not None
    assert key == key_of(picture(GPU), GPU)
    for other in (picture(GPU, shape=(5, 4, 3)), picture(GPU, dtype=torch.float32)):
        assert key_of(other, GPU) not in (None, key)
    assert key_of(picture(torch.device("cuda", 1)), torch.device("cuda", 1)) not in (None, key)
    for elsewhere in (CPU, torch.device("cuda", 1)):
        assert key_of(picture(elsewhere), GPU) is None
    assert key_of(torch.rand(4, 5, 3), CPU) is None
    assert key_of(torch.rand(4, 5, 3).numpy(), GPU) is None


def test_on_a_cpu_what_does_not_hold_is_said_at_once_and_on_a_gpu_at_the_end():
    now, later, wrong = Checks(CPU), Checks(GPU), torch.tensor(False)
    now.require(torch.tensor(True), AssertionError)
    with pytest.raises(ValueError, match="first"):
        now.require(wrong, lambda: ValueError("first"))
    now.look()
    later.require(torch.tensor(True), AssertionError)
    later.require(wrong, lambda: ValueError("first"))
    later.require(wrong, lambda: ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        later.look()


@pytest.mark.parametrize("options", [{"memory": "1GiB"}, {"progress": print}, {}])
def test_pictures_on_the_cpu_and_bounded_ones_are_not_captured(options, monkeypatch):
    """And on a GPU neither those with a bound on memory or with progress."""
    dehazer = famkern.Dehazer(Student(16, 1, 1), memory=options.get("memory"))
    monkeypatch.setattr(dehazer._graphs, "replay", lambda *_: pytest.fail("replayed"))
    if options:
        monkeypatch.setattr(engine, "key_of", lambda *_: "a key")
    dehazer(torch.rand(3, 8, 9), progress=options.get("progress"))


def test_a_picture_in_several_bands_is_not_captured(monkeypatch):
    monkeypatch.setattr(engine, "key_of", lambda *_: "a key")
    dehazer, ran = famkern.Dehazer(Student(16, 1, 1)), []
    monkeypatch.setattr(dehazer._graphs, "run", lambda key, compute, *pictures: ran.append(compute(*pictures)))
    dehazer(torch.rand(3, 8, 9))
    assert len(ran) == 1
    monkeypatch.setattr(engine.Plan, "whole", property(lambda _: False))
    dehazer(torch.rand(3, 8, 9))
    assert len(ran) == 1


# ---- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dehazer():
    torch.manual_seed(0)
    return famkern.Dehazer(Student(16, 2, 2).eval(), device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8], ids=str)
def test_replays_are_the_same_bits_as_runs_and_see_the_new_picture(dehazer, dtype):
    plain = famkern.Dehazer(Student(16, 2, 2), device="cuda")
    plain._tensors, plain._graphs = dehazer._tensors, Graphs(most=0)  # never captures
    for turn in range(5):
        picture = torch.rand(3, 61 + turn % 2, 83, device="cuda")
        picture = (picture * 255).to(dtype) if dtype == torch.uint8 else picture.to(dtype)
        assert torch.equal(dehazer(picture), plain(picture))
    assert len([run for run in dehazer._graphs._runs.values() if run]) == 2


@pytest.mark.gpu
def test_a_replay_refuses_what_a_run_refuses(dehazer):
    picture = torch.rand(3, 40, 50, device="cuda")
    for _ in range(3):
        dehazer(picture)
    with pytest.raises(ValueError, match="NaN or infinity"):
        dehazer(torch.where(picture > 0.99, float("nan"), picture))
    with pytest.raises(ValueError, match="values from"):
        dehazer(picture + 1)
    assert torch.equal(dehazer(picture), dehazer(picture))


@pytest.mark.gpu
@pytest.mark.parametrize("turns", [0, 3], ids=["run", "replay"])
def test_the_host_waits_only_where_it_looks_at_the_checks(dehazer, turns, monkeypatch):
    picture = torch.rand(3, 40, 50, device="cuda")
    dehazer(torch.rand(3, 41, 50, device="cuda"))  # weights are on the GPU, kernels compiled
    for _ in range(turns):
        dehazer(picture)
    monkeypatch.setattr(Checks, "look", lambda _: None)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        dehazer(picture)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_threads_share_the_graphs(dehazer):
    pictures = [torch.rand(3, 40 + n % 3, 50, device="cuda") for n in range(12)]
    expected = [dehazer(picture) for picture in pictures]
    results = {}

    def work(n):
        results[n] = dehazer(pictures[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[n], wanted) for n, wanted in enumerate(expected))
