"""The map of transmission against haze that is known, and pixels without data, which count in no fit."""

import numpy as np
import pytest
import torch

import famkern
from famkern.engine import MemoryBoundError, Pixels
from famkern.engine.reduced import plan_carry, plan_reduced, run_reduced
from famkern.models import Student

AIRLIGHT = 0.8


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    student = Student(16, 1, 1).eval()
    student.scale_side = 100
    return student


def scene(height=150, width=211, dtype=np.float64):
    """Hazy, clear (H, W, 3) and transmission (H, W): texture behind haze that grows to the right."""
    clear = np.random.default_rng(0).random((height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
    clear = clear[:height, :width]
    t = np.broadcast_to(np.linspace(0.9, 0.3, width), (height, width))
    hazy = clear * t[..., None] + AIRLIGHT * (1 - t[..., None])
    return hazy.astype(dtype), clear.astype(dtype), t


@pytest.mark.parametrize("scale", [1, 2, "auto", 3])
@pytest.mark.parametrize("strength", [0.5, 1, 1.6])
def test_haze_that_is_known_is_found(student, scale, strength):
    hazy, clear, t = scene()
    result = (hazy + strength * (clear - hazy)).clip(0, 1) if strength < 1 else hazy + strength * (clear - hazy)
    low, high = result.min(), result.max()
    if low < 0 or high > 1:  # what is above strength 1 leaves the range here and there
        hazy, result = hazy / 2 + 0.25, result / 2 + 0.25
    found = famkern.Dehazer(student, scale=scale, strength=strength).transmission(hazy, result)
    assert (found.shape, found.dtype) == (t.shape, np.float32)
    assert np.abs(found - t).max() < 0.1
    assert np.abs(found - t).mean() < 0.02


def test_it_is_in_0_to_1_whatever_the_result(student):
    noise, even = torch.rand(3, 40, 50), torch.full((3, 40, 50), 0.5)
    dehazer = famkern.Dehazer(student)
    for hazy, clear in ((noise, 1 - noise), (even, noise), (noise, even), (0.5 + noise / 1000, noise), (noise, noise)):
        found = dehazer.transmission(hazy, clear)
        assert (found > 0).all()
        assert (found <= 1).all()
    assert (dehazer.transmission(noise, even) == 1).all()


@pytest.mark.parametrize("scale", [1, 3])
def test_bounds_threads_and_kinds_leave_the_bits(student, scale):
    hazy, clear, _ = scene(dtype=np.float32)
    dehazer = famkern.Dehazer(student, scale=scale)
    expected = dehazer.transmission(hazy, clear)
    for threads in (1, 3):
        other = famkern.Dehazer(student, scale=scale, threads=threads)
        least = other.transmission_memory(*hazy.shape[:2])
        assert np.array_equal(other.limited(least).transmission(hazy, clear), expected)
        with pytest.raises(MemoryBoundError, match="211 x 150 pixels"):
            other.limited(least - 1).transmission(hazy, clear)
    tensors = [torch.from_numpy(picture).permute(2, 0, 1) for picture in (hazy, clear)]
    assert np.array_equal(dehazer.transmission(*tensors).numpy(), expected)


def test_bands_leave_the_bits(student, monkeypatch):
    hazy, clear, _ = scene(dtype=np.float32)
    dehazer = famkern.Dehazer(student, scale=2)
    expected = dehazer.transmission(hazy, clear)
    monkeypatch.setattr("famkern.engine.plan_carry", lambda *args, **options: plan_carry(*args, **options, band=7))
    assert np.array_equal(dehazer.transmission(hazy, clear), expected)


@pytest.mark.parametrize(
    ("hazy", "clear", "error", "words"),
    [
        (np.zeros((9, 9, 3)), torch.zeros(3, 9, 9), TypeError, "two torch tensors or two NumPy arrays"),
        (np.zeros((9, 9, 3)), np.zeros((9, 8, 3)), ValueError, "of one size"),
        (np.zeros((1, 9, 9, 3)), np.zeros((1, 9, 9, 3)), ValueError, r"shape \(H, W, 3\), not"),
        (torch.zeros(2, 3, 9, 9), torch.zeros(2, 3, 9, 9), ValueError, r"shape \(3, H, W\), not"),
        (np.zeros((9, 9, 3)), np.full((9, 9, 3), np.nan), ValueError, "NaN or infinity"),
    ],
)
def test_what_is_no_picture_and_its_result_is_refused(student, hazy, clear, error, words):
    with pytest.raises(error, match=words):
        famkern.Dehazer(student).transmission(hazy, clear)


def test_without_effect_there_is_no_estimate(student):
    with pytest.raises(ValueError, match="strength is 0"):
        famkern.Dehazer(student, strength=0).transmission(np.zeros((9, 9, 3)), np.zeros((9, 9, 3)))


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("band", [5, None])
def test_pixels_without_data_count_in_no_fit(scale, band):
    """With a network that knows no neighbours, so that nothing but the fit could carry them on."""
    random, size = np.random.default_rng(0), (96, 120)
    valid = np.zeros(size, bool)
    valid[13:70, 20:] = True
    near = np.zeros(size, bool)  # what valid pixels are reduced together with
    near[13 - 2 * scale : 70 + 2 * scale, 20 - 2 * scale :] = True
    image = random.random((*size, 3))
    other = np.where(near[..., None], image, random.random((*size, 3)))

    def run(picture, valid):
        cpu, result = torch.device("cpu"), np.empty_like(picture)

        def network(low, made, report):
            made.array[...] = np.asarray(low.array) ** 2

        plan = plan_reduced(
            lambda *size: famkern.Dehazer(Student(16, 1, 1))._network_plan(*size[:2], cpu, size[2]),
            *size, scale, dtype=torch.float64, device=cpu, bound=2**30, band=band,
        )  # fmt: skip
        run_reduced(plan, Pixels(picture), Pixels(result), network, 1.0, cpu, valid=valid)
        return result

    assert np.array_equal(run(image, valid)[valid], run(other, valid)[valid])
    assert np.array_equal(run(image, torch.from_numpy(valid)), run(image, valid))
    assert not np.array_equal(run(image, None)[valid], run(other, None)[valid])
    assert np.array_equal(run(image, np.ones(size, bool)), run(image, None))


def test_the_map_of_valid_pixels_is_checked(student):
    dehazer, image = famkern.Dehazer(student, scale=2), np.zeros((9, 8, 3))
    with pytest.raises(TypeError, match="bools, not float64"):
        dehazer(image, valid=np.ones((9, 8)))
    for wrong in (np.ones((8, 9), bool), torch.ones(9, 8, 3, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"but this picture has \(9, 8\)"):
            dehazer(image, valid=wrong)
    batch = np.random.default_rng(0).random((2, 9, 8, 3)).astype(np.float32)
    valid = np.arange(8)[None].repeat(9, 0) > 3
    for flags in (valid, valid[::-1, ::-1][::-1, ::-1]):
        flags.flags.writeable = False
        assert np.array_equal(dehazer(batch, valid=flags)[1], dehazer(batch[1], valid=valid))
