"""Frames one after another: no flicker, the same bits from any state on, a new start at a cut."""

import numpy as np
import pytest
import torch

from famkern import Dehazer
from famkern.models import Student
from famkern.video import FrameDehazer, dehaze_frames
from famkern.video.frames import is_cut, thumbnail

SIZE = (48, 64)
STILL = slice(40, None)  # rows that nothing passes


def scene(seed, size=SIZE):
    """A picture (H, W, 3) in [0, 1] with structure of several sizes."""
    drawn = np.random.default_rng(seed)
    cells = [(drawn.random((size[0] // side + 1, size[1] // side + 1, 3)), side) for side in (16, 4, 1)]
    large = [values.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]] for values, side in cells]
    return 0.5 * large[0] + 0.3 * large[1] + 0.2 * large[2]


def film(count, size=SIZE):
    """A still scene in haze that stays the same; something yellow passes, and a lamp flashes."""
    transmission, airlight = np.linspace(0.35, 0.8, size[0])[:, None, None], np.array([0.85, 0.87, 0.9])
    for index in range(count):
        clear = scene(0, size)
        left = int(index / count * 1.5 * size[1]) - size[1] // 2
        clear[size[0] // 4 : 3 * size[0] // 4, max(left, 0) : max(left + size[1] // 3, 0)] = (0.95, 0.9, 0.2)
        if index % 4 == 0:
            clear[size[0] // 8 : size[0] // 4, size[1] // 8 : size[1] // 2] = 1
        yield np.rint(255 * (clear * transmission + airlight * (1 - transmission))).astype(np.uint8)


@pytest.fixture(scope="module")
def dehazer():
    torch.manual_seed(0)
    return Dehazer(Student(16, 2, 1))


def equal(some, others):
    some, others = list(some), list(others)
    return len(some) == len(others) and all(map(np.array_equal, some, others))


@pytest.mark.parametrize("scale", [1, 2])
def test_constant_haze_flickers_at_most_a_third_as_much(scale):
    dehazer, frames = Dehazer(scale=scale), list(film(16))

    def flicker(weight):
        brightness = [clear[STILL].mean() for clear in dehaze_frames(frames, dehazer, weight=weight)]
        return np.abs(np.diff(brightness)).mean()

    alone = flicker(1)
    assert alone > 0.5  # of 255
    assert 3 * flicker(0.1) <= alone


@pytest.mark.parametrize("scale", [1, 3])
def test_a_state_that_comes_in_goes_on_with_the_same_bits_whatever_the_bands(dehazer, scale):
    frames = list(film(6))
    dehazer = dehazer.limited(None)
    dehazer.scale = scale
    whole = FrameDehazer(dehazer)
    expected = [whole(frame) for frame in frames]
    first = FrameDehazer(dehazer)
    begun = [first(frame) for frame in frames[:3]]
    state = {name: tensor.clone() for name, tensor in first.state.items()}
    banded = dehazer.limited(dehazer.least_memory(*SIZE))
    banded.threads = 1
    rest = FrameDehazer(banded, state=state)
    assert equal(expected, begun + [rest(frame) for frame in frames[3:]])
    assert rest.state.keys() == whole.state.keys()
    assert all(torch.equal(rest.state[name], whole.state[name]) for name in whole.state)
    assert not equal(expected[3:], dehaze_frames(frames[3:], dehazer))


def test_a_frame_alone_is_a_picture(dehazer):
    frames = list(film(3))
    assert equal(dehaze_frames(frames, dehazer, weight=1), map(dehazer, frames))
    assert np.array_equal(next(dehaze_frames(frames, dehazer)), dehazer(frames[0]))


def test_a_cut_and_another_size_begin_anew(dehazer):
    frames = [*film(2), (255 * scene(1)).astype(np.uint8), (255 * scene(2, (30, 41))).astype(np.uint8)]
    assert equal(list(dehaze_frames(frames, dehazer))[2:], map(dehazer, frames[2:]))


def test_what_moves_is_no_cut():
    wide = scene(0, (120, 200))
    small = [thumbnail(wide[:, at : at + 160]) for at in (0, 4, 8)]
    noisy = thumbnail(np.clip(wide[:, :160] + np.random.default_rng(0).normal(0, 0.05, (120, 160, 3)), 0, 1))
    grey = [thumbnail(np.random.default_rng(seed).normal(0.6, 0.02, (120, 160, 3)).clip(0, 1)) for seed in (0, 1)]
    assert not is_cut(small[0], small[1])
    assert not is_cut(small[0], noisy)
    assert not is_cut(*grey)  # fog, in which only noise differs
    assert is_cut(small[0], thumbnail(scene(1, (120, 160))))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (17, 5), (129, 257)])
def test_a_thumbnail_is_made_of_any_size(size):
    frame = np.full((*size, 3), 51, np.uint8)
    assert thumbnail(frame) == pytest.approx(0.2)
    assert max(thumbnail(frame).shape) <= 16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_frames_keep_their_depth(dehazer, dtype):
    frame = scene(0)
    frame = (frame * np.iinfo(dtype).max).astype(dtype) if dtype != np.float32 else frame.astype(dtype)
    (clear,) = dehaze_frames([frame], dehazer)
    assert (clear.dtype, clear.shape) == (frame.dtype, frame.shape)


def test_what_cannot_be_averaged_is_refused(dehazer):
    frame = next(film(1))
    _, means = dehazer.frame(frame)
    for weight in (0, 1.5, True, None):
        with pytest.raises(ValueError, match="weight is a number above 0 and up to 1"):
            dehazer.frame(frame, means, weight=weight)
    with pytest.raises(TypeError, match=r"a frame is a NumPy array \(H, W, 3\)"):
        dehazer.frame(frame[None])
    windowed = Dehazer(Student(16, 2, 1), window=16)
    with pytest.raises(ValueError, match="a film of another size"):
        windowed.frame(frame, means)
