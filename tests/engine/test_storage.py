"""Maps that do not fit go to a real disk with room for them, or the run does not begin."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from famkern.engine import disk, storage
from famkern.engine.disk import file_system, spill_folder
from famkern.engine.storage import open_storage

from .test_plan import plan_of


@pytest.fixture
def real_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMKERN_SPILL_DIR", str(tmp_path))
    monkeypatch.setattr(disk, "IN_MEMORY", set())  # the tests' folder may be a tmpfs
    return tmp_path


def test_the_folder_that_the_user_chose_is_used(real_disk):
    assert spill_folder(1000) == real_disk


def test_too_little_room_is_said_before_anything_is_computed(real_disk):
    with pytest.raises(OSError, match=rf"needs 1024.0 TiB on disk.*{real_disk} has .*FAMKERN_SPILL_DIR"):
        spill_folder(1 << 50)


def test_a_folder_in_memory_is_refused(real_disk, monkeypatch):
    monkeypatch.setattr(disk, "IN_MEMORY", {file_system(real_disk)})
    with pytest.raises(OSError, match="is in memory"):
        spill_folder(1000)


def test_a_folder_that_is_none_is_refused(real_disk, monkeypatch):
    monkeypatch.setenv("FAMKERN_SPILL_DIR", str(real_disk / "missing"))
    with pytest.raises(OSError, match="missing is not a writable folder"):
        spill_folder(1000)


def test_file_systems_are_told_apart():
    assert file_system(Path("/proc")) == "proc"


def test_a_spill_is_announced(real_disk, caplog):
    plan = replace(plan_of(100, 100), spill=True)
    with caplog.at_level(logging.WARNING, "famkern"), open_storage(plan, torch.device("cpu")):
        assert not list(real_disk.iterdir())
    assert "100 x 100 pixels do not fit the memory bound" in caplog.text
    assert str(real_disk) in caplog.text


def test_what_was_stored_is_read_back(real_disk):
    plan = replace(plan_of(100, 100, band=10), spill=True)
    with open_storage(plan, torch.device("cpu")) as maps:
        bands = {}
        for chain in plan.line.arrangement.chains:
            if chain.first <= 6 <= chain.last:  # alive at the same time
                name = chain.names[0]
                band = maps.target(name, 10, 20)
                band.copy_(torch.rand(band.shape))
                maps.store(name, 10, 20, band)
                bands[name] = band.clone()
        assert len(bands) >= 3
        for name, band in bands.items():
            assert torch.equal(maps.read(name, 10, 20), band)
            assert torch.equal(maps.read(name, 12, 18), band[:, 2:8])


def test_the_next_run_of_the_same_size_has_the_memory_of_the_last():
    reserve = storage.Reserve()
    first = reserve.take(1 << 16)
    reserve.keep(first)
    assert reserve.take(1 << 16) is first
    beside = reserve.take(1 << 16)  # a run beside the first has its own
    assert beside is not first
    reserve.keep(first)
    reserve.keep(beside)
    assert reserve.take(1 << 16) is first
    reserve.keep(first)
    assert reserve.take(1 << 15) is not first  # of another size: given up
    assert reserve.take(1 << 16) is not first
    reserve.keep(first)
    reserve.give_up()
    assert reserve.take(1 << 16) is not first
