"""Samples depend on their key alone, and hazy and clear show the same."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from famkern.training.data import (
    Depths,
    Draw,
    Haze,
    HazePairs,
    Pairs,
    Phase,
    Photos,
    SharpCrops,
    Solved,
    StepSampler,
)
from famkern.training.data.store import Store
from famkern.training.data.window import Whole

from .pictures import photo, reside, save, slope

CLEAR_AIR = Haze(beta=(0, 0), airlight=(1, 1), white=1, tint=0, none=1, thin=0)


@pytest.fixture
def sources(tmp_path):
    reside(tmp_path / "reside")
    for index in range(3):
        save(tmp_path / f"photos/{index}.png", photo(10 + index, (60, 44 + index)))
    depth = np.rint(20000 * slope(48, 60)).astype(np.uint16)
    depth[:8] = 65535
    save(tmp_path / "rgbd/rgb/1.png", photo(20))
    save(tmp_path / "rgbd/depth/1.png", depth)
    return [
        Pairs(tmp_path / "reside"),
        Solved(tmp_path / "reside", weight=2),
        Depths(tmp_path / "rgbd", sky=True),
        Photos(tmp_path / "photos", weight=3),
    ]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_draw_gives_the_same_whenever_and_wherever(sources):
    draws = [Draw(step, sample, 24) for step in range(3) for sample in range(8)]
    first, second = HazePairs(sources, seed=5), HazePairs(sources, seed=5, cache=1)
    forward = [first[draw] for draw in draws]
    backward = [second[draw] for draw in reversed(draws)][::-1]
    assert all(map(same, forward, backward))
    assert all(map(same, forward, [first[draw] for draw in draws]))
    other = HazePairs(sources, seed=6)
    assert not any(same(sample, other[draw]) for sample, draw in zip(forward, draws, strict=True))


def test_workers_and_resumption_change_nothing(sources):
    phases = [Phase(0.5, 16, 4), Phase(1.0, 24, 2)]

    def batches(first_step=0, workers=0):
        sampler = StepSampler(phases, 6, first_step)
        return list(DataLoader(HazePairs(sources, seed=1), batch_sampler=sampler, num_workers=workers))

    alone = batches()
    assert [tuple(batch["hazy"].shape) for batch in alone] == [(4, 3, 16, 16)] * 3 + [(2, 3, 24, 24)] * 3
    assert all(map(same, alone, batches(workers=2)))
    assert all(map(same, alone[2:], batches(first_step=2)))


@pytest.mark.parametrize("size", [1, 7, 24, 37, 100])
def test_samples_of_any_size_are_pictures(sources, size):
    """100 is more than any of the pictures has."""
    for source in sources:
        dataset = HazePairs([source])
        for sample in range(4):
            drawn = dataset[Draw(0, sample, size)]
            assert set(drawn) == {"hazy", "clear"}
            for picture in drawn.values():
                assert picture.shape == (3, size, size)
                assert picture.dtype == torch.float32
                assert picture.is_contiguous()
                assert picture.min() >= 0
                assert picture.max() <= 1


def test_without_haze_the_two_are_equal(tmp_path, sources):
    """Crop, scale and turn are the same for both."""
    for source in [
        Solved(tmp_path / "reside", haze=CLEAR_AIR),
        Depths(tmp_path / "rgbd", haze=CLEAR_AIR),
        Photos(tmp_path / "photos", haze=CLEAR_AIR),
    ]:
        dataset = HazePairs([source])
        for sample in range(10):
            drawn = dataset[Draw(0, sample, 20)]
            assert torch.equal(drawn["hazy"], drawn["clear"])


def test_pairs_are_used_as_they_are(tmp_path):
    clear = photo()
    save(tmp_path / "clear/1.png", clear)
    save(tmp_path / "hazy/1_1.png", 255 - clear)
    dataset = HazePairs([Pairs(tmp_path)])
    for sample in range(10):
        drawn = dataset[Draw(0, sample, 20)]
        torch.testing.assert_close(drawn["hazy"], 1 - drawn["clear"])


def test_all_turns_and_places_occur(tmp_path):
    ramp = np.zeros((12, 12, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(12)[:, None] * 10, np.arange(12)[None] * 20
    save(tmp_path / "a.png", ramp)
    dataset = SharpCrops([tmp_path])
    drawn = {dataset[Draw(0, sample, 11)]["clear"].numpy().tobytes() for sample in range(400)}
    assert len(drawn) == 8 * 4


def test_weights_are_shares(tmp_path):
    for name, level in (("a", 50), ("b", 150)):
        save(tmp_path / name / "1.png", np.full((8, 8, 3), level, np.uint8))
    dataset = HazePairs([Photos(tmp_path / "a", 1, CLEAR_AIR), Photos(tmp_path / "b", 3, CLEAR_AIR)])
    dark = np.mean([float(dataset[Draw(0, sample, 4)]["clear"].mean()) < 0.4 for sample in range(300)])
    assert dark == pytest.approx(0.25, abs=0.08)


def test_large_photographs_are_also_seen_smaller(tmp_path):
    """Stripes one pixel wide turn grey where a crop shows two or more pixels as one."""
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::2] = 200
    save(tmp_path / "a.png", stripes)
    dataset = SharpCrops([tmp_path])
    contrasts = [float(np.ptp(dataset[Draw(0, sample, 8)]["clear"].numpy())) for sample in range(60)]
    assert min(contrasts) < 0.1
    assert max(contrasts) == pytest.approx(200 / 255)


def test_16_bit_pictures_are_read(tmp_path):
    from famkern import images

    pixels = photo().astype(np.uint16) * 257
    images.write(tmp_path / "a.png", images.Picture(pixels))
    drawn = SharpCrops([tmp_path])[Draw(0, 0, 48)]["clear"]
    assert float(drawn.max()) <= 221 / 255


def test_pairs_of_different_sizes_are_named(tmp_path):
    save(tmp_path / "hazy/7_1.png", photo(0, (30, 20)))
    save(tmp_path / "clear/7.png", photo(0, (30, 22)))
    for source in (Pairs(tmp_path), Solved(tmp_path)):
        with pytest.raises(ValueError, match=r"7_1\.png: 30 x 20 pixels, but .*7\.png has 30 x 22; crop") as error:
            HazePairs([source])[Draw(0, 0, 8)]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("larger", ["hazy", "clear"])
def test_a_border_that_one_picture_has_more_does_not_count(tmp_path, larger):
    """Samples, and solved depth, are those of pictures from which it is cropped beforehand."""
    for folder, cropped in (("as it is", False), ("cropped", True)):
        for seed, name in enumerate(("clear/7.png", "hazy/7_1_0.9.png", "hazy/7_2_0.9.png")):
            picture = photo(seed, (44, 64))
            if cropped or not name.startswith(larger):
                picture = picture[2:-2, 2:-2]
            save(tmp_path / folder / name, picture)
    for source in (Pairs, Solved):
        own, expected = (HazePairs([source(tmp_path / folder)]) for folder in ("as it is", "cropped"))
        for step in range(3):
            sample, other = own[Draw(step, 0, 24)], expected[Draw(step, 0, 24)]
            assert all(torch.equal(sample[name], other[name]) for name in sample)


@pytest.mark.parametrize("border", [1, -1])
def test_depth_may_have_a_border_more_or_less(tmp_path, border):
    save(tmp_path / "rgb/1.png", photo(0, (100, 30)))
    depth = 1 + slope(32, 102)
    file = depth if border > 0 else depth[2:-2, 2:-2]
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth/1.npy", file)
    (scene,) = Depths(tmp_path, far=1.0).scenes()
    found = scene.depth(Store(10**6), np.random.default_rng(0))
    assert found.shape == (30, 100)
    greatest = (file[1:-1, 1:-1] if border > 0 else file).max()
    assert np.allclose(found[1:-1, 1:-1], depth[2:-2, 2:-2] / greatest, atol=2e-3)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    for dataset in (HazePairs([Photos(tmp_path)]), SharpCrops([tmp_path])):
        with pytest.raises(ValueError, match=r"a\.png: is not a JPEG"):
            dataset[Draw(0, 0, 8)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((48, 40)), r"40 x 48 pixels, but .*1\.png has 60 x 48"),
        (np.ones((2, 48, 60)), r"shape \(2, 48, 60\)"),
        (np.zeros((48, 60)), "all of its depth is unknown"),
        (None, "cannot be read"),
    ],
)
def test_depth_that_does_not_fit_is_named(tmp_path, values, message):
    save(tmp_path / "rgb/1.png", photo())
    (tmp_path / "depth").mkdir()
    if values is None:
        (tmp_path / "depth/1.npy").write_bytes(b"nothing")
    else:
        np.save(tmp_path / "depth/1.npy", values)
    with pytest.raises(ValueError, match=rf"1\.npy: .*{message}|1\.npy: {message}"):
        HazePairs([Depths(tmp_path)])[Draw(0, 0, 8)]


def test_depth_may_have_half_the_resolution(tmp_path):
    save(tmp_path / "rgb/1.png", photo())
    save(tmp_path / "depth/1.png", np.rint(200 * slope(24, 30)).astype(np.uint8))
    (scene,) = Depths(tmp_path).scenes()
    assert scene.depth(Store(10**6), np.random.default_rng(0)).shape == (48, 60)


def test_haze_may_have_the_depth_of_another_picture(tmp_path):
    """Two grey pictures, one of which is all near and the other all far."""
    grey, haze = (
        np.full((30, 40, 3), 100, np.uint8),
        Haze(beta=(2, 2), airlight=(1, 1), white=1, tint=0, none=0, thin=0),
    )
    for name, size, depth in (("near", (30, 40), 1), ("far", (24, 36), 200)):
        save(tmp_path / f"rgb/{name}.png", grey[: size[0], : size[1]])
        values = np.full(size, depth, np.uint8)
        values[0, 0] = 200
        save(tmp_path / f"depth/{name}.png", values)

    def thin(foreign):
        source = Depths(tmp_path, haze=dataclasses.replace(haze, foreign=foreign), far=1.0)
        near = next(scene for scene in source.scenes() if scene.path.stem == "near")
        samples = (near.sample(Store(10**6), np.random.default_rng(seed), Whole(1000)) for seed in range(200))
        return np.mean([float(np.median(sample.transmission)) > 0.9 for sample in samples])

    assert thin(0) == 1
    assert thin(1) == pytest.approx(0.5, abs=0.1)
    assert thin(0.4) == pytest.approx(0.8, abs=0.1)


def test_estimated_depth_is_taken_in_most_samples_at_any_ratio(tmp_path):
    grey = np.full((40, 40, 3), 100, np.uint8)
    save(tmp_path / "photos/1.png", grey)
    inverse = np.ones((20, 20), np.uint8)
    inverse[:, 10:] = 255
    save(tmp_path / "photos_disparity/1.png", inverse)
    haze = Haze(beta=(1, 1), airlight=(1, 1), white=1, tint=0, none=0, thin=0)
    (scene,) = Photos(tmp_path / "photos", haze=haze).scenes()
    samples = [scene.sample(Store(10**6), np.random.default_rng(seed), Whole(1000)) for seed in range(300)]
    thickness = [-np.log(sample.transmission) for sample in samples]
    estimated = [t for t in thickness if np.ptp(t[:, :15]) < 1e-6 and abs(t[0, 0] - 1) < 1e-5]
    assert len(estimated) / len(samples) == pytest.approx(0.7, abs=0.08)
    ratios = [t[0, 0] / t[0, -1] for t in estimated]
    assert 5 <= min(ratios) < 6
    assert 35 < max(ratios) <= 40.001


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")]])
def test_weights_are_positive(tmp_path, weights):
    save(tmp_path / "a.png", photo())
    with pytest.raises(ValueError, match="all above 0"):
        HazePairs([Photos(tmp_path, weight) for weight in weights])


def test_the_store_holds_no_more_than_it_may():
    store, made = Store(100), []

    def array(key):
        return store.get(key, lambda: made.append(key) or np.zeros(40, np.uint8))

    for key in "abacb":
        array(key)
    assert made == ["a", "b", "c", "b"]  # c pushed out b, which had been unused for longest
    assert store.held <= 100
