"""All files are read once before a training begins, and what is bad is told together."""

import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lightning", reason="needs pip install 'famkern[training]'")

from famkern.training import data
from famkern.training.data import checking


def save(path, size=(32, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(1, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Sources of every kind, all whole."""
    for name in ("1_1", "1_2", "2_1"):
        save(tmp_path / f"pairs/hazy/{name}.png")
    for name in ("1", "2"):
        save(tmp_path / f"pairs/clear/{name}.png", (34, 26))  # a border of 1
        save(tmp_path / f"depth/rgb/{name}.png")
        save(tmp_path / f"photos/{name}.jpg")
        np.save(save(tmp_path / f"depth/depth/{name}.npy.png").with_suffix(""), np.ones((12, 16)))
        os.unlink(tmp_path / f"depth/depth/{name}.npy.png")
    save(tmp_path / "photos_disparity/1.png", (7, 9))
    return tmp_path


def groups(folder):
    sources = [
        data.Pairs(folder / "pairs"),
        data.Solved(folder / "pairs"),
        data.Depths(folder / "depth"),
        data.Photos(folder / "photos"),
    ]
    return data.HazePairs(sources).to_check()


def test_what_is_whole_is_read_once(folders, monkeypatch):
    read, told = [], []
    monkeypatch.setattr(checking, "_read", lambda file, real=checking._read: read.append(file.path) or real(file))
    data.check(groups(folders), told.append)
    assert sorted(read) == sorted(path for path in folders.rglob("*.*") if path.is_file())
    assert told == [f"reading {len(read)} files once, before the first step, to see that all are whole"]
    read.clear()
    data.check(groups(folders), told.append)
    assert (read, len(told)) == ([], 1)
    os.utime(folders / "photos/1.jpg", ns=(1, 1))
    data.check(groups(folders))
    assert read == [folders / "photos/1.jpg"]


def test_bad_files_are_told_together_and_again(folders):
    whole = (folders / "pairs/hazy/1_2.png").read_bytes()
    (folders / "pairs/hazy/1_2.png").write_bytes(whole[: len(whole) // 2])
    (folders / "photos/2.jpg").write_bytes(b"")
    np.save(folders / "depth/depth/1.npy", np.ones((2, 3, 4)))
    save(folders / "pairs/clear/2.png", (36, 24))
    save(folders / "depth/rgb/2.png", (99, 24))
    for _ in range(2):
        told = []
        with pytest.raises(ValueError, match="5 of 12 files are not fit to train on; mend or remove them"):
            data.check(groups(folders), told.append)
        bad = [line.split(": ")[0].removeprefix(f"{folders}/") for line in told[1:]]
        assert sorted(bad) == [
            "depth/depth/1.npy", "depth/depth/2.npy", "pairs/hazy/1_2.png", "pairs/hazy/2_1.png", "photos/2.jpg",
        ]  # fmt: skip
        assert all("\n" not in line for line in told)


def test_of_many_bad_files_some_are_named(tmp_path):
    for number in range(30):
        (save(tmp_path / f"{number}.png")).write_bytes(b"")
    told = []
    with pytest.raises(ValueError, match="30 of 30 files are not fit to train on, 10 of them not named here"):
        data.check(data.SharpCrops([tmp_path]).to_check(), told.append)
    assert len(told) == 1 + checking.MOST_TOLD


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": [1]}', b"\xff"])
def test_a_damaged_cache_is_none(folders, content):
    checking._place().parent.mkdir(parents=True)
    checking._place().write_bytes(content)
    data.check(groups(folders))
    assert len(checking._remembered()) == 12


def test_a_cache_that_cannot_be_written_is_told(folders, monkeypatch):
    (folders / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders / "file"))
    told = []
    data.check(groups(folders), told.append)
    assert "will be read again by the next training" in told[-1]


@pytest.mark.parametrize(("size", "other", "more"), [((24, 32), (26, 34), 1), ((460, 620), (480, 640), 10)])
def test_borders_are_even_and_at_most_a_tenth(tmp_path, size, other, more):
    assert data.border(tmp_path, size, tmp_path, other) == more
    assert data.border(tmp_path, other, tmp_path, size) == -more
    assert data.border(tmp_path, size, tmp_path, size) == 0


@pytest.mark.parametrize("other", [(25, 33), (26, 32), (24, 34), (28, 36)])
def test_other_differences_are_other_views(tmp_path, other):
    for sizes in (((24, 32), other), (other, (24, 32))):
        with pytest.raises(ValueError, match="crop them to the same view first"):
            data.border(tmp_path / "a", sizes[0], tmp_path / "b", sizes[1])
