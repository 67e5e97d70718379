"""The guard of instruction counts: what it lets pass and what it does not. The counts are made by `make instructions`."""

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.fixture
def guard(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("instructions", Path(__file__).parent / "native/instructions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(module, "compiler", lambda: "c++ 1")
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    return module


@pytest.mark.parametrize(
    ("now", "passes"),
    [
        ({"head": 1000, "block": 500}, True),
        ({"head": 1020, "block": 400}, True),
        ({"head": 1021, "block": 500}, False),
        ({"head": 1000}, False),
        ({"head": 1000, "block": 500, "new": 1}, False),
    ],
)
def test_more_instructions_or_other_stages_do_not_pass(guard, monkeypatch, now, passes):
    monkeypatch.setattr(guard, "counts", lambda binary: {"head": 1000, "block": 500})
    assert guard.main(["binary", "--record"]) == 0
    monkeypatch.setattr(guard, "counts", lambda binary: now)
    assert (guard.main(["binary"]) == 0) == passes


def test_another_compiler_is_told_and_not_compared(guard, monkeypatch, capsys):
    monkeypatch.setattr(guard, "counts", lambda binary: {"head": 1000})
    guard.main(["binary", "--record"])
    monkeypatch.setattr(guard, "compiler", lambda: "c++ 2")
    assert guard.main(["binary"]) == 0
    assert "skipped: the record is of 'c++ 1', this is 'c++ 2'" in capsys.readouterr().out


def test_the_record_is_of_every_stage_and_width():
    record = json.loads((Path(__file__).parent / "native/instructions.json").read_text())
    kinds = {name.partition(",")[0] for name in record["instructions"]}
    assert len(record["instructions"]) == 3 * len(kinds) == 27
