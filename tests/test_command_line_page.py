"""Every command of docs/command-line.md does what it says there: it ends well on files of these names."""

import glob
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from famkern import cli

PAGE = Path(__file__).parents[1] / "docs/command-line.md"
COMMANDS = [line.split("  #")[0].strip() for line in re.findall(r"^    (famkern .*)$", PAGE.read_text("utf-8"), re.M)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("hazy.jpg", "huge.tif", "mask.png", "holiday/a.jpg", "holiday/day/b.png", "drone/c.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if name != "mask.png" else pixels[..., 0]).save(tmp_path / name)
    return tmp_path


def test_the_page_has_commands():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", COMMANDS)
def test_it_ends_well(here, command):
    before = {path for path in here.rglob("*") if path.is_file()}
    arguments = [part for word in shlex.split(command)[1:] for part in (sorted(glob.glob(word)) or [word])]
    with pytest.raises(SystemExit) as end:
        cli.app(arguments)
    assert not end.value.code
    written = {path for path in here.rglob("*") if path.is_file()} - before
    assert bool(written) != ("--dry-run" in arguments)


@pytest.mark.parametrize("option", ["mask", "keep-time", "dry-run", "quiet", "json", "transmission", "scale", "memory"])
def test_options_stand_on_the_page(option):
    assert f"--{option}" in PAGE.read_text("utf-8")
