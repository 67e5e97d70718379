"""What is unpacked trains as the folders did."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from famkern.training import data, pack
from famkern.training.data.store import read

from .data.pictures import photo, save, slope


@pytest.fixture
def folders(tmp_path):
    save(tmp_path / "rooms/rgb/1.png", photo(0, (60, 48)))
    save(tmp_path / "rooms/depth/1.png", np.rint(250 * slope(48, 60)).astype(np.uint8))
    save(tmp_path / "roads/rgb/2.png", photo(1, (60, 48)))
    save(tmp_path / "roads/depth/2.png", np.rint(60000 * slope(48, 60)).astype(np.uint16))
    save(tmp_path / "photos/3.png", photo(2, (200, 100)))
    save(tmp_path / "photos_disparity/3.png", np.rint(250 * slope(40, 80)).astype(np.uint8))
    return [tmp_path / name for name in ("rooms", "roads", "photos", "photos_disparity")]


def packed(folders, to, **changes):
    return pack.pack(folders, to, **({"quality": 90, "side": 64, "step": 2, "limit": 10**6} | changes))


def test_layouts_stay(folders, tmp_path):
    assert packed(folders, tmp_path / "data.zip") == (tmp_path / "data.zip").stat().st_size
    zipfile.ZipFile(tmp_path / "data.zip").extractall(tmp_path / "there")
    there = tmp_path / "there"
    (room,) = data.find_depths(there / "rooms")
    (road,) = data.find_depths(there / "roads")
    np.testing.assert_array_equal(
        np.asarray(Image.open(room.depth))[..., 0], np.asarray(Image.open(folders[0] / "depth/1.png"))[::2, ::2]
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(road.depth)), np.asarray(Image.open(folders[1] / "depth/2.png"))[::2, ::2]
    )
    assert np.abs(read(room.picture).astype(int) - photo(0, (60, 48))).mean() < 8
    (scene,) = data.Photos(there / "photos").scenes()
    assert scene.disparity == there / "photos_disparity/3.webp"
    assert max(read(scene.path).shape) == 64
    pairs = data.HazePairs(
        [data.Depths(there / "rooms"), data.Depths(there / "roads", sky=True), data.Photos(there / "photos")]
    )
    for sample in range(8):
        assert pairs[data.Draw(0, sample, 16)]["hazy"].shape == (3, 16, 16)


def test_the_same_again(folders, tmp_path):
    packed(folders, tmp_path / "a.zip")
    packed(folders, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_nothing_is_left_of_an_archive_that_is_too_large(folders, tmp_path):
    (tmp_path / "data.zip").write_bytes(b"earlier")
    with pytest.raises(ValueError, match=r"data\.zip: .* more than 1000 B; lower --quality"):
        packed(folders, tmp_path / "data.zip", limit=1000)
    assert (tmp_path / "data.zip").read_bytes() == b"earlier"
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_without_pictures_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "famkern.training.pack", "-o", tmp_path / "data.zip", tmp_path / "empty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"famkern: {tmp_path}/empty: no images in this folder or below it\n"
