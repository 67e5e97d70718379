"""Another tone is a picture of the same things, and never twice the same."""

import numpy as np
import pytest

from famkern.training.data.tones import retoned

from .pictures import photo


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (60, 48)])
def test_any_draw_of_any_size_is_a_picture(size):
    clear = photo(1, size)
    for seed in range(20):
        found = retoned(clear, np.random.default_rng(seed))
        assert found.dtype == np.uint8
        assert found.shape == clear.shape


def test_draws_differ_and_repeat():
    found = [retoned(photo(), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0].astype(float) - found[2]).mean() > 2


def test_black_stays_black_and_what_is_brighter_stays_brighter():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(20):
        found = retoned(ramp, np.random.default_rng(seed)).astype(int)
        assert (found[0, 0] == 0).all()
        assert (np.diff(found.mean(axis=-1)[0]) >= 0).all()


def test_most_draws_are_near_the_picture():
    """An augmentation, not a destruction: half of all draws leave mean brightness within a factor of 1.6."""
    clear = photo()
    ratios = [retoned(clear, np.random.default_rng(seed)).mean() / clear.mean() for seed in range(200)]
    assert 0.6 < np.median(ratios) < 1.1
    assert np.mean([1 / 1.6 < ratio < 1.6 for ratio in ratios]) > 0.5
