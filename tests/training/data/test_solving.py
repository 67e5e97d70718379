"""Depth comes out of haze as it went in."""

from pathlib import Path

import numpy as np
import pytest

from famkern import images
from famkern.training.data import find_pairs, hazy, solve_depth
from famkern.training.data.solving import fill, relative_depth
from famkern.training.data.store import read

from .pictures import hazed, photo, slope

SOTS = Path(__file__).parents[4] / "shared/data/sots_indoor/train"
DEPTH = slope(48, 60)
FARTHEST = np.quantile(DEPTH, 0.999)


@pytest.mark.parametrize(("betas", "bound"), [([1.0], 0.02), ([0.6, 0.9, 1.5], 0.012), ([1.5, 0.6], 0.015)])
def test_depth_and_densities_of_synthetic_haze(betas, bound):
    clear = photo()
    depth, found = solve_depth(clear, [(hazed(clear, DEPTH, beta), 1.0) for beta in betas])
    assert np.sqrt(np.mean((depth - DEPTH / FARTHEST) ** 2)) < bound
    np.testing.assert_allclose(found, np.array(betas) * FARTHEST, rtol=0.01)


def test_another_airlight():
    clear = photo()
    depth, (beta,) = solve_depth(clear, [(hazed(clear, DEPTH, 1.0, 0.8), 0.8)])
    assert np.sqrt(np.mean((beta * depth - DEPTH) ** 2)) < 0.05


def test_where_the_picture_is_white_depth_comes_from_around():
    clear = photo()
    clear[20:26, 30:40] = 255
    depth, (beta,) = solve_depth(clear, [(hazed(clear, DEPTH, 1.0), 1.0)])
    assert np.abs(beta * depth - DEPTH)[20:24, 30:40].max() < 0.15
    assert np.isfinite(depth).all()


def test_no_haze_has_no_depth():
    clear = photo()
    depth, betas = solve_depth(clear, [(clear, 1.0)])
    assert not depth.any()
    assert betas == [0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (48, 61)])
def test_filling_keeps_what_is_known_and_is_smooth_elsewhere(shape):
    values = np.random.default_rng(0).random(shape)
    known = np.random.default_rng(1).random(shape) < 0.5
    known.flat[0] = True
    filled = fill(np.where(known, values, 0), known.astype(float), 1e-6)
    np.testing.assert_allclose(filled[known], values[known], atol=1e-5)
    assert values[known].min() - 1e-5 <= filled.min()
    assert filled.max() <= values[known].max() + 1e-5


def test_units_do_not_count():
    metres = 3 + 5 * DEPTH
    found = relative_depth(metres)
    np.testing.assert_allclose(found, relative_depth(1000 * metres), rtol=1e-5)
    np.testing.assert_allclose(found, relative_depth(1 / metres, disparity=True), rtol=1e-5)
    assert np.quantile(found, 0.95) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("unknown", [0, -1, np.nan, np.inf])
def test_unknown_depth_is_filled(unknown):
    depth = 3 + 5 * DEPTH
    depth[10:12, 20:24] = unknown
    found = relative_depth(depth)
    assert found[10:12, 20:24].min() > found.min() - 1e-6
    assert found[10:12, 20:24].max() < found.max() + 1e-6


def test_sky_is_infinite_and_sets_no_scale():
    depth = 3 + 5 * DEPTH
    ground = relative_depth(depth[10:])
    depth[:10] = 1000
    found = relative_depth(depth, sky=True)
    assert np.isinf(found[:10]).all()
    np.testing.assert_allclose(found[10:], ground, rtol=1e-5)
    assert np.isinf(relative_depth(np.ones((3, 3)), sky=True)).all()


def test_depth_of_which_nothing_is_known():
    with pytest.raises(ValueError, match="unknown"):
        relative_depth(np.zeros((4, 4)))


@pytest.mark.parametrize("scene", ["1400", "1406", "1411"])
def test_depth_of_real_scenes_renders_their_versions(scene):
    """RESIDE's own haze comes out to within a level of 255 on average: depth by its maximum, beta 0.5 + 0.1 version."""
    if not SOTS.is_dir():
        pytest.skip(f"needs {SOTS}")
    values = images.read(SOTS / f"depth/{scene}.webp").pixels[..., 0]
    depth = relative_depth(values, far=1.0).astype(np.float64)
    for pair in (pair for pair in find_pairs(SOTS) if pair.clear.stem == scene):
        beta = 0.5 + 0.1 * int(pair.hazy.stem.split("_")[1])
        error = 255 * hazy(read(pair.clear) / 255, np.exp(-beta * depth)[..., None], np.ones(3)) - read(pair.hazy)
        assert np.abs(error).mean() < 0.7
        assert np.abs(error).max() < 3.5


def test_real_scenes_predict_the_version_left_out():
    """Depth solved from three levels renders the fourth to within a unit of 255."""
    if not SOTS.is_dir():
        pytest.skip(f"needs {SOTS}")
    pairs = [pair for pair in find_pairs(SOTS) if pair.clear.stem == "1411"]
    clear = read(pairs[0].clear)
    versions = [(read(pair.hazy), pair.airlight) for pair in pairs]
    depth, betas = solve_depth(clear, versions)
    order = np.argsort(betas)
    np.testing.assert_allclose(np.array(betas)[order] / min(betas), [1, 1.5, 2, 2.5], rtol=0.01)
    left_out = int(order[1])
    depth, known = solve_depth(clear, versions[:left_out] + versions[left_out + 1 :])
    beta = 1.5 * min(known)
    error = 255 * hazy(clear / 255, np.exp(-beta * depth)[..., None], np.ones(3)) - versions[left_out][0]
    assert 20 * np.log10(255) - 10 * np.log10((error**2).mean()) > 50
