"""famkern.kernels.stages.tiles: the defaults unless asked, then the fastest of a few, kept in a file."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

pytest.importorskip("triton", reason="needs triton")

from famkern.kernels.stages import measure, tiles

HALF = torch.float16
KEY = ("a GPU", 16, HALF)
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tiles, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")


def test_the_default_is_not_measured(monkeypatch) -> None:
    monkeypatch.delenv("FAMKERN_AUTOTUNE", raising=False)
    monkeypatch.setattr(measure, "block_stage", lambda *_: pytest.fail("measured"))
    for (channels, itemsize), tile in tiles.TILES.items():
        assert tiles.tile_for(channels, HALF if itemsize == 2 else torch.float32, CUDA) == tile
    assert not tiles.cache_path().exists()


def test_the_fastest_is_chosen_measured_once_and_kept(monkeypatch) -> None:
    monkeypatch.setenv("FAMKERN_AUTOTUNE", "1")
    candidates, seen = tiles.space(16, 2), []
    fastest = candidates[5]

    def fake(channels: int, dtype: torch.dtype, device: torch.device) -> float:
        seen.append(tiles.tile_for(channels, dtype, device))  # what a launch would take meanwhile
        return 1.0 if seen[-1] == fastest else 2.0

    monkeypatch.setattr(measure, "block_stage", fake)
    assert tiles.tile_for(16, HALF, CUDA) == fastest
    assert seen == candidates
    assert tiles.tile_for(16, HALF, CUDA) == fastest
    tiles._chosen.clear()  # as in another process
    assert tiles.tile_for(16, HALF, CUDA) == fastest
    assert seen == candidates
    tiles.tile_for(16, torch.bfloat16, CUDA)  # another key
    assert len(seen) == 2 * len(candidates)
    assert len(json.loads(tiles.cache_path().read_text())) == 2
    assert tiles.tile_for(16, HALF, torch.device("cpu")) == tiles.TILES[16, 2]  # the interpreter


def test_of_equals_the_default_is_kept() -> None:
    assert tiles.tuned(KEY, lambda _: 1.0) == tiles.TILES[16, 2]


def test_an_error_while_measuring_is_not_a_choice(monkeypatch) -> None:
    monkeypatch.setenv("FAMKERN_AUTOTUNE", "1")

    def broken(*_) -> float:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(measure, "block_stage", broken)
    with pytest.raises(RuntimeError, match="out of luck"):
        tiles.tile_for(16, HALF, CUDA)
    assert not tiles._chosen
    assert not tiles.cache_path().exists()


@pytest.mark.parametrize("text", ["{", '{"a GPU": {"lanes": 1}}', "[]"])
def test_a_file_of_something_else_is_an_error(text) -> None:
    tiles.cache_path().parent.mkdir(parents=True)
    tiles.cache_path().write_text(text)
    with pytest.raises(ValueError, match=r"tiles\.json does not hold tiles"):
        tiles.tuned(KEY, lambda _: 1.0)


@pytest.mark.parametrize(("channels", "itemsize"), tiles.TILES)
def test_the_space_is_small_and_begins_with_the_default(channels, itemsize) -> None:
    found = tiles.space(channels, itemsize)
    assert found[0] == tiles.TILES[channels, itemsize]
    assert len(set(found)) == len(found) <= 13
    assert all(tile.lanes >= 32 and tile.programs >= 1 for tile in found)


def test_windows_take_fewer_programs_of_the_same_tile() -> None:
    tile = tiles.TILES[16, 2]
    assert tile.over_windows() == dataclasses.replace(tile, programs=2, block_programs=2)
