"""Depth made up for photographs: any size, in range, with edges, and the sky where it is."""

import dataclasses

import numpy as np
import pytest

from famkern.training.data import Draw, Haze, HazePairs, Photos
from famkern.training.data.fields import pseudo_depth, smooth
from famkern.training.data.sky import find_sky, likeness, overcast, skyline
from famkern.training.data.store import Store
from famkern.training.data.window import Crop, Whole

from .pictures import photo, save


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (37, 23)])
def test_any_size(size):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        depth = pseudo_depth(rng, photo(seed, size), 0.2, 0.7)
        assert depth.shape == size[::-1]
        assert depth.dtype == np.float32
        assert 0 <= depth.min() <= depth.max() <= 1
        assert np.abs(smooth(rng, *size)).max() <= 1


def test_the_ground_is_nearer_at_the_bottom():
    depths = [pseudo_depth(np.random.default_rng(seed), photo(seed), 0, 1) for seed in range(60)]
    assert np.mean([depth[:12].mean() for depth in depths]) > 0.1 + np.mean([depth[-12:].mean() for depth in depths])


def landscape():
    """Smooth bright sky over dark, rough ground, a tower in front of it."""
    picture = photo(3, (120, 90)) // 2 + np.random.default_rng(0).integers(0, 60, (90, 120, 3), dtype=np.uint8)
    picture[:40] = np.linspace([120, 160, 220], [180, 200, 230], 40)[:, None]
    picture[20:, 50:60] = 30
    return picture.astype(np.uint8)


def test_sky_is_found_up_to_its_edges():
    picture = landscape()
    sky = likeness(picture, find_sky(picture), (0, 0, 1, 1))
    truth = np.zeros((90, 120), bool)
    truth[:40] = True
    truth[20:, 50:60] = False
    assert ((sky > 0.5) == truth).mean() > 0.98


def test_a_part_of_the_sky_is_that_part():
    picture = landscape()
    sky = find_sky(picture)
    whole = likeness(picture, sky, (0, 0, 1, 1))
    part = likeness(picture[30:50, 60:120], sky, (30 / 90, 0.5, 50 / 90, 1))
    assert np.abs(part - whole[30:50, 60:120]).mean() < 0.02
    assert likeness(picture[60:], sky, (60 / 90, 0, 1, 1)) is None


@pytest.mark.parametrize("level", [30, 100])
def test_what_is_dark_is_no_sky(level):
    picture = np.full((60, 80, 3), level, np.uint8)
    assert likeness(picture, find_sky(picture), (0, 0, 1, 1)) is None


def test_what_fades_into_something_else_is_no_sky():
    picture = np.repeat(np.linspace(250, 20, 90).astype(np.uint8)[:, None, None], 120, 1).repeat(3, 2)
    assert likeness(picture, find_sky(picture), (0, 0, 1, 1)) is None


def test_the_sky_of_a_sample_may_be_hidden_altogether(tmp_path):
    save(tmp_path / "a.png", landscape())
    haze = Haze(beta=(2, 2), airlight=(1, 1), white=1, tint=0, none=0, thin=0, sky=(5, 5))
    dataset = HazePairs([Photos(tmp_path, haze=haze)])
    drawn = [dataset[Draw(0, sample, 90)]["hazy"] for sample in range(12)]
    hidden = [float((hazy.amin(0) > 0.995).float().mean()) for hazy in drawn]
    assert max(hidden) > 0.2
    assert min(hidden) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (37, 53)])
def test_a_skyline_is_between_sky_and_ground(size):
    for seed in range(30):
        place = skyline(np.random.default_rng(seed), *size, 0.0, 1.0)
        assert place.shape == size
        assert 0 <= place.min() <= place.max() <= 1
        assert (np.diff(place, axis=0) <= 0).all()  # the sky is above


def test_an_overcast_sky_is_smooth_and_of_the_airlight_s_colour():
    picture = photo()
    place = np.zeros(picture.shape[:2], np.float32)
    place[:20] = 1
    for seed in range(30):
        painted, airlight = overcast(np.random.default_rng(seed), picture, place)
        np.testing.assert_array_equal(painted[20:], picture[20:])
        sky = painted[:20].astype(float) / 255
        assert np.abs(np.diff(sky, axis=0)).max() < 0.03
        assert np.abs(sky.mean((0, 1)) - airlight).max() < 0.13
        assert np.ptp(airlight) < 0.25  # grey


def test_a_photograph_under_an_overcast_sky_keeps_it_and_whole_pictures_keep_their_own(tmp_path):
    save(tmp_path / "a.png", photo(size=(90, 90)))
    haze = dataclasses.replace(Haze.outdoor(), overcast=1, noisy=0, jpeg=0, white=1, none=0, thin=0, beta=(2, 2))
    scene, store = Photos(tmp_path, haze=haze).scenes()[0], Store(1 << 20)
    unchanged = 0
    for seed in range(20):
        sample = scene.sample(store, np.random.default_rng(seed), Crop(48))
        sky = sample.transmission > 0.999
        unchanged += sky.sum()
        assert np.abs(sample.hazy[sky].astype(int) - sample.clear[sky]).max(initial=0) <= 1
        whole = scene.sample(store, np.random.default_rng(seed), Whole(90))
        np.testing.assert_array_equal(whole.clear, photo(size=(90, 90)))
    assert unchanged > 1000
