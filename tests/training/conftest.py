import signal

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def as_before(tmp_path_factory, monkeypatch):
    """Training sets what is global: threads, determinism, when interrupted, what Ctrl-C does; and keeps a cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    handler = signal.getsignal(signal.SIGINT)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    signal.signal(signal.SIGINT, handler)


def smooth(seed, size):
    """A picture that is no noise: (size, size, 3) uint8."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """A folder of four photographs of 64 x 64."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        smooth(seed, 64).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def pairs(tmp_path):
    """A folder of three pairs of 32 x 32."""
    folder = tmp_path / "pairs"
    for name in ("hazy", "clear"):
        (folder / name).mkdir(parents=True)
    for seed in range(3):
        clear = smooth(seed, 32)
        clear.save(folder / "clear" / f"{seed}.png")
        Image.blend(clear, Image.new("RGB", clear.size, "white"), 0.5).save(folder / "hazy" / f"{seed}_1.png")
    return folder
