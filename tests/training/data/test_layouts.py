"""Files find their partners by the names that data sets give them."""

from pathlib import Path

import numpy as np
import pytest

from famkern.training.data import Pair, find_depths, find_pairs, find_photos
from famkern.training.data.layouts import find_disparity

from .pictures import photo, save


@pytest.mark.parametrize(
    ("hazy", "clear"),
    [
        ("hazy/1400_1.png", "clear/1400.png"),  # SOTS indoor
        ("hazy/0001_0.8_0.2.jpg", "gt/0001.png"),  # SOTS outdoor
        ("hazy/1_1_0.90179.png", "clear/1.png"),  # ITS
        ("haze/0005_1_0.16.jpg", "clear_images/0005.jpg"),  # OTS
        ("synthetic/0586.jpg", "original/0586.jpg"),  # HSTS
        ("hazy/a_b_c.png", "GT/a_b.png"),
    ],
)
def test_each_set_of_reside(tmp_path, hazy, clear):
    save(tmp_path / hazy, photo())
    save(tmp_path / clear, photo())
    assert find_pairs(tmp_path) == [Pair(tmp_path / hazy, tmp_path / clear)]


@pytest.mark.parametrize(
    ("name", "airlight"),
    [("1400_1", 1), ("1_1_0.90179", 0.90179), ("0001_0.8_0.2", 0.8), ("0005_1_0.16", 1), ("0586", 1), ("a_b_c", 1)],
)
def test_airlight_is_in_the_name(name, airlight):
    assert Pair(Path(f"hazy/{name}.png"), Path("clear.png")).airlight == airlight


def test_a_folder_without_the_layout_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds hazy/ and clear/ expected, but there is no .*hazy"):
        find_pairs(tmp_path)
    with pytest.raises(ValueError, match="no images in this folder"):
        find_photos(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds rgb/ and depth/"):
        find_depths(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        find_depths(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("picture", "depth", "disparity"),
    [
        ("rgb/7.jpg", "depth/7.png", False),
        ("rgb/rgb_00050.jpg", "depth/sync_depth_00050.png", False),
        ("images/7.jpg", "disparity/7.png", True),
        ("7.jpg", "7_depth.png", False),
        ("motorcycle_left.png", "motorcycle_disp.npz", True),
        ("rgb.jpg", "depth.jpg", False),
    ],
)
def test_depth_lies_beside_its_picture(tmp_path, picture, depth, disparity):
    save(tmp_path / picture, photo())
    (tmp_path / depth).parent.mkdir(exist_ok=True)
    if depth.endswith("npz"):
        np.savez(tmp_path / depth, np.ones((48, 60)))
    else:
        save(tmp_path / depth, np.ones((48, 60), np.uint8))
    (found,) = find_depths(tmp_path)
    assert (found.picture, found.depth, found.disparity) == (tmp_path / picture, tmp_path / depth, disparity)


def test_depth_without_its_picture_is_named(tmp_path):
    save(tmp_path / "rgb/1.png", photo())
    save(tmp_path / "depth/2.png", photo()[..., 0])
    with pytest.raises(ValueError, match=r"2\.png: no picture of the same name"):
        find_depths(tmp_path)


def test_photographs_lie_at_any_depth(tmp_path):
    paths = [save(tmp_path / name, photo()) for name in ("a.png", "b/c/d.jpg")]
    (tmp_path / "notes.txt").write_text("")
    assert find_photos(tmp_path) == paths


def test_what_is_hidden_is_not_looked_at_and_what_is_not_read_is_told(tmp_path, caplog):
    for folder in ("hazy", "clear", "rgb", "depth"):
        save(tmp_path / folder / "1.png", photo()[..., 0] if folder == "depth" else photo())
        for name in ("._1.png", ".hidden.jpg"):
            (tmp_path / folder / name).write_bytes(b"")
    save(tmp_path / "rgb/.thumbnails/1.png", photo())
    (pair,) = find_pairs(tmp_path)
    (depth,) = find_depths(tmp_path)
    assert (pair.hazy.name, pair.clear.name, depth.depth.name) == ("1.png",) * 3
    assert find_photos(tmp_path / "rgb") == [tmp_path / "rgb/1.png"]
    assert not caplog.messages
    for name in ("2.gif", "3.JP2", "notes.txt"):
        (tmp_path / "rgb" / name).write_bytes(b"")
    assert find_photos(tmp_path / "rgb") == [tmp_path / "rgb/1.png"]
    assert caplog.messages == [f"{tmp_path}/rgb: 2 files are left out, which are not read: .gif, .jp2"]


@pytest.mark.parametrize(
    ("folder", "photo_at", "file"),
    [
        ("photos", "photos/1.jpg", "photos_disparity/1.webp"),
        ("set/train", "set/train/1.jpg", "set_train_disparity/1.webp"),
        ("scenes", "scenes/rgb/1.jpg", "scenes/disparity/1.png"),
    ],
)
def test_estimated_depth_lies_beside_the_photographs(tmp_path, folder, photo_at, file):
    path = save(tmp_path / photo_at, photo())
    assert find_disparity(tmp_path / folder, path) is None
    save(tmp_path / file, photo()[..., 0])
    assert find_disparity(tmp_path / folder, path) == tmp_path / file
    assert find_photos(tmp_path / folder) == [path]
