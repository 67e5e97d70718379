"""Things before a photograph: near, thin, and the rest as it was."""

import dataclasses

import numpy as np
import pytest

from famkern.training.data import Haze, Photos
from famkern.training.data.objects import draw
from famkern.training.data.store import Store
from famkern.training.data.window import Crop, Whole

from .pictures import photo, save


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (60, 48)])
def test_any_draw_of_any_size_is_a_picture_with_depth(size):
    clear, depth = np.full((*size, 3), 200, np.uint8), np.ones(size, np.float32)
    for seed in range(20):
        found, nearer = draw(np.random.default_rng(seed), clear, depth)
        assert (found.dtype, found.shape) == (np.uint8, clear.shape)
        assert (nearer.dtype, nearer.shape) == (np.float32, size)
        assert 0 <= nearer.min() <= nearer.max() <= 1


def test_what_is_nearer_is_what_is_drawn_and_it_is_thin():
    clear, depth = np.full((100, 100, 3), 200, np.uint8), np.ones((100, 100), np.float32)
    covered = []
    for seed in range(30):
        found, nearer = draw(np.random.default_rng(seed), clear, depth)
        changed = (found != clear).any(axis=2)
        assert not changed[nearer == 1].any()
        assert changed[nearer < 0.5].sum() >= 0.8 * (nearer < 0.5).sum()
        covered.append((nearer < 1).mean())
    assert 0.01 < np.mean(covered) < 0.2
    assert max(covered) < 0.5


def test_photographs_have_them_as_often_as_the_haze_says_and_whole_pictures_never(tmp_path):
    save(tmp_path / "a.png", photo(size=(90, 90)))
    plain = dataclasses.replace(Haze.outdoor(), overcast=0, noisy=0, jpeg=0)
    scenes = [Photos(tmp_path, haze=dataclasses.replace(plain, objects=p)).scenes()[0] for p in (0, 1)]
    store = Store(1 << 20)
    for view, differ in ((Crop(48), True), (Whole(90), False)):
        pairs = [
            [scene.sample(store, np.random.default_rng(seed), view).clear for scene in scenes] for seed in range(10)
        ]
        assert any((a != b).any() for a, b in pairs) == differ
