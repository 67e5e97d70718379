"""Maps of a GPU's run in the host's memory: the same bits, with copies that happen as late as they may, and on a GPU."""

import contextlib
import sys
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch

import famkern
from famkern import engine
from famkern.engine.host import HostStorage
from famkern.engine.plan import LEAST_BANDS
from famkern.models import Student, UStudent
from famkern.ops import stage as ops

from .test_line import line_of, lowered
from .test_run import run

GIB = 1 << 30


class Late:
    """A stream whose copies happen only when somebody waits for them."""

    def __init__(self):
        self.work, self.done, self.asked = deque(), 0, 0
        self.copies = 0

    def _add(self, action):
        self.work.append(action)
        self.asked += 1

    def copy(self, to, source):
        self.copies += 1
        self._add(lambda: to.copy_(source))

    def mark(self):
        return self, self.asked

    def wait(self, moment):
        self._add(lambda: catch_up(moment))


class Compute(Late):
    """The stream on which this program itself runs: what it waits for happens now."""

    def wait(self, moment):
        catch_up(moment)


def catch_up(moment):
    stream, position = moment
    while stream.done < position:
        stream.done += 1
        stream.work.popleft()()


class Deaf(Compute):
    """A stream that does not wait."""

    def wait(self, moment):
        pass


class DeafCopies(Late):
    """The same of copies."""

    def wait(self, moment):
        pass


def on_the_host(monkeypatch, kinds=(Late, Compute, Late)):
    """Runs that spill keep their maps in HostStorage; returns what was opened."""
    opened = []

    @contextlib.contextmanager
    def open_storage(plan, device):
        plan = replace(plan, slots=2)
        storage = HostStorage(plan, device, tuple(kind() for kind in kinds))
        for tensor in [storage._arena, *(buffer for buffer, _ in storage._free)]:
            tensor.fill_(255)  # NaN, in every dtype
        opened.append(storage)
        yield storage
        assert len(storage._free) == plan.slots * plan.passing  # every buffer came back
        storage.close()

    monkeypatch.setattr(sys.modules["famkern.engine.run"], "open_storage", open_storage)
    return opened


@pytest.mark.parametrize("seed", range(12))
def test_the_same_bits_as_maps_where_they_are_computed(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    student = Student(16, int(rng.integers(1, 5)), int(rng.integers(1, 4))).eval()
    height, width = (int(n) for n in rng.integers(1, 60, size=2))
    image = torch.rand(3, height, width)
    for tile in (1, 4):
        for band in {1, int(rng.integers(1, height + 1)), height}:
            with monkeypatch.context() as patch:
                expected = run(student, image, dtype=torch.float32, band=band, tile=tile)
                opened = on_the_host(patch)
                found = run(student, image, dtype=torch.float32, band=band, tile=tile, spill=True)
            assert torch.equal(found, expected), (height, width, tile, band)
            assert len(opened) == 1


@pytest.mark.parametrize("kinds", [(DeafCopies, Compute, Late), (Late, Deaf, Late)], ids=["into", "compute"])
def test_a_wait_that_is_missing_shows(kinds, monkeypatch):
    """What the test above would say if HostStorage forgot one."""
    torch.manual_seed(0)
    student, image = Student(16, 2, 2).eval(), torch.rand(3, 40, 30)
    expected = run(student, image, dtype=torch.float32, band=8)
    on_the_host(monkeypatch, kinds)
    with contextlib.suppress(ValueError):  # NaN of buffers never filled
        assert not torch.equal(run(student, image, dtype=torch.float32, band=8, spill=True), expected)


def test_the_next_band_is_on_its_way_before_this_one_is_computed(monkeypatch):
    opened, seen = on_the_host(monkeypatch), []
    student = Student(16, 1, 2).eval()

    def spy(kind, *arguments):
        if opened and kind == "block":
            seen.append(opened[0]._into.copies)
        ops.stage(kind, *arguments)

    run(student, torch.rand(3, 40, 30), dtype=torch.float32, band=10, spill=True, operator=spy)
    assert seen[:4] == [4, 6, 8, 8]  # x and z of the next band too, until there is none


def plan_of(memory, slots=2, size=(2160, 3840), groups=3):
    line = line_of(groups, 6, torch.float16)
    options = {"tile": 1, "memory": memory, "available": 64 * GIB, "slots": slots, "band_pixels": 1 << 24}
    return engine.make_plan(line, *size, **options)


@pytest.mark.parametrize("memory", [64 << 20, 300 << 20, 700 << 20])
@pytest.mark.parametrize("groups", [1, 3, 5])
def test_the_bound_counts_the_buffers_on_the_device(memory, groups, monkeypatch):
    plan = plan_of(memory, groups=groups)
    assert plan.spill
    assert plan.need <= memory
    storage = HostStorage(plan, torch.device("meta"), (Late(), Compute(), Late()))
    assert sum(buffer.nbytes for buffer, _ in storage._free) < plan.need


def test_there_are_enough_bands_for_copies_to_overlap():
    plan = plan_of(1 << 30)
    assert plan.spill
    assert len(list(plan.bands(0))) >= LEAST_BANDS
    assert plan_of(None).whole


def test_rows_of_a_band_are_never_more_than_a_buffer_has():
    for line in (line_of(3, 2), lowered(UStudent((16, 16), (1, 2, 1)))):
        for height in (1, 2, 7, 40, 97):
            for tile in (1, 4):
                for band in (1, 3, 8, 40, 200):
                    plan = engine.make_plan(line, height, 9, tile=tile, memory=None, available=GIB, band=band)
                    for index, stage in enumerate(line.stages):
                        level, halo = plan.level(index), stage.halo(tile)
                        for start, stop in plan.bands(index):
                            band_rows = max(start - halo, 0), min(stop + halo, level.height)
                            for name in set(stage.reads) - {"image"}:
                                first, end = plan.level_of(name).rows(level, *band_rows)
                                assert (end - first) * plan.row_bytes(name) <= plan.band_bytes


# ---- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("memory", ["64MiB", "128MiB"])
def test_a_bound_on_a_gpu_is_kept_with_the_same_bits(dtype, memory, monkeypatch):
    opened = []
    make = HostStorage.__init__
    monkeypatch.setattr(HostStorage, "__init__", lambda self, *a: (opened.append(self), make(self, *a))[1])
    torch.manual_seed(0)
    student, picture = Student(16, 3, 3).eval(), torch.rand(3, 1500, 1100, device="cuda")
    whole = famkern.Dehazer(student, device="cuda", dtype=dtype)(picture)
    assert not opened
    bounded = famkern.Dehazer(student, device="cuda", dtype=dtype, memory=memory)
    bounded(picture[:, :1400])  # weights and kernels are there
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = [bounded(picture) for _ in range(3)]
    assert torch.cuda.max_memory_allocated() - before <= engine.parse_bytes(memory) + sum(r.nbytes for r in results)
    assert len(opened) == 4
    assert all(torch.equal(result, whole) for result in results)
