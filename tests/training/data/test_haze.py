"""Haze is its model, drawn within the ranges it was given."""

import dataclasses

import numpy as np
import pytest

from famkern.training.data import Haze, hazy

from .pictures import photo, slope

PLAIN = Haze(beta=(1.5, 1.5), airlight=(0.8, 0.8), white=0, tint=0, none=0, thin=0)
CLEAR, DEPTH = photo(), slope(48, 60)


def test_the_model_at_known_depth():
    found, transmission = PLAIN.add(CLEAR, DEPTH, np.random.default_rng(0))
    t = np.exp(-1.5 * DEPTH.astype(np.float64))[..., None]
    exact = CLEAR * t + 0.8 * 255 * (1 - t)
    assert np.abs(found - exact).max() <= 0.5 + 1e-3  # rounding
    np.testing.assert_allclose(transmission, t[..., 0], rtol=1e-5)


def test_the_ends_of_transmission():
    ones, airlight = np.ones((48, 60, 1)), np.array([0.7, 0.8, 0.9])
    np.testing.assert_allclose(hazy(CLEAR / 255, ones, airlight), CLEAR / 255, atol=1e-15)
    np.testing.assert_array_equal(hazy(CLEAR / 255, 0 * ones, airlight), np.broadcast_to(airlight, CLEAR.shape))


def test_no_haze_leaves_a_picture_as_it_is():
    found, transmission = dataclasses.replace(PLAIN, none=1).add(CLEAR, DEPTH, np.random.default_rng(0))
    np.testing.assert_array_equal(found, CLEAR)
    assert (transmission == 1).all()


def test_sky_is_at_a_depth_of_its_own():
    depth = DEPTH.copy()
    depth[:10] = np.inf
    _, transmission = dataclasses.replace(PLAIN, sky=(4, 4)).add(CLEAR, depth, np.random.default_rng(0))
    np.testing.assert_allclose(transmission[:10], np.exp(-6), rtol=1e-5)


@pytest.mark.parametrize("haze", [Haze.indoor(), Haze.outdoor(), dataclasses.replace(Haze.outdoor(), jpeg=1, noisy=1)])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (60, 48)])
def test_any_draw_of_any_size_is_a_picture(haze, size):
    clear, depth = photo(1, size), slope(size[1], size[0]) if size[1] > 1 else np.ones((1, 1), np.float32)
    for seed in range(40):
        found, transmission = haze.add(clear, depth, np.random.default_rng(seed))
        assert found.dtype == np.uint8
        assert found.shape == clear.shape
        assert transmission.shape == depth.shape
        assert 0 <= transmission.min() <= transmission.max() <= 1


def test_airlight_is_white_or_nearly_grey():
    haze = dataclasses.replace(Haze.outdoor(), beta=(99, 99), none=0, thin=0, noisy=0, jpeg=0, uneven=0)
    airlights = [haze.add(CLEAR, DEPTH, np.random.default_rng(seed))[0][0, 0] / 255 for seed in range(300)]
    white = np.mean([(airlight == 1).all() for airlight in airlights])
    assert white == pytest.approx(haze.white, abs=0.06)
    for airlight in airlights:
        assert airlight.min() >= haze.airlight[0] - haze.tint - 1e-2
        assert np.ptp(airlight) <= 2 * haze.tint + 1e-2


def test_densities_are_spread_evenly():
    """So that every level of RESIDE's is met equally often."""
    haze = dataclasses.replace(Haze.indoor(), none=0, thin=0)
    depth = np.ones((2, 2), np.float32)
    betas = [-np.log(haze.add(CLEAR[:2, :2], depth, np.random.default_rng(s))[1][0, 0]) for s in range(600)]
    counts, _ = np.histogram(betas, 4, haze.beta)
    assert counts.sum() == 600
    assert counts.min() > 110


def test_jpeg_blocks_lie_anywhere():
    """A crop's first block need not begin at its corner: the joints of blocks differ between draws."""
    haze = dataclasses.replace(PLAIN, jpeg=1, quality=(5, 5), beta=(0, 0))
    found = {haze.add(CLEAR, DEPTH, np.random.default_rng(seed))[0].tobytes() for seed in range(20)}
    assert len(found) > 15


def test_blue_is_scattered_more_than_red():
    haze = dataclasses.replace(PLAIN, angstrom=(1, 1), airlight=(1, 1))
    found, transmission = haze.add(np.zeros_like(CLEAR), np.ones_like(DEPTH), np.random.default_rng(0))
    thickness = -np.log(1 - found[0, 0] / 255)
    np.testing.assert_allclose(thickness / 1.5, [540 / 610, 1, 540 / 465], rtol=0.02)
    np.testing.assert_allclose(transmission, np.exp(-1.5), rtol=1e-5)


def test_noise_is_as_strong_as_drawn_and_its_grains_as_large():
    grey, depth = np.full((200, 200, 3), 128, np.uint8), np.zeros((200, 200), np.float32)
    for grain, like in ((0.5, 0.0), (1, 0.0), (3, 0.75)):
        haze = dataclasses.replace(PLAIN, noisy=1, noise=(5, 5), grain=(grain, grain))
        noise = haze.add(grey, depth, np.random.default_rng(0))[0] - 128.0
        assert noise.std() == pytest.approx(5, rel=0.03)
        assert np.mean(noise[1:] * noise[:-1]) / 25 == pytest.approx(like, abs=0.1)  # of neighbours


@pytest.mark.parametrize(
    "wrong", [{"grain": (0, 1)}, {"beta": (2, 1)}, {"beta": (-1, 1)}, {"white": 1.5}, {"jpeg": -0.1}]
)
def test_ranges_and_probabilities_are_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        dataclasses.replace(PLAIN, **wrong)
