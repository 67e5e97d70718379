"""Runs at reduced scale: the whole against its definition, the same bits in all bands, the bound on memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import famkern
from famkern import engine
from famkern.engine.reduced import plan_reduced
from famkern.models import Student
from famkern.models.student import normalise

RADIUS, EPSILON = 8, 1e-4


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return Student(16, 2, 1).eval()


def box(x):
    side = 2 * RADIUS + 1
    inside = F.avg_pool2d(F.pad(x, (RADIUS,) * 4), side, 1)
    return inside / F.avg_pool2d(F.pad(torch.ones_like(x[:, :1]), (RADIUS,) * 4), side, 1)


def definition(student, image, k):
    """(B, 3, H, W) -> the same, in float64."""

    def weights(length):
        centre = (torch.arange(-(-length // k), dtype=torch.float64) + 0.5) * k - 0.5
        w = (1 - (torch.arange(length, dtype=torch.float64) - centre[:, None]).abs() / k).clamp(min=0)
        return w / w.sum(1, keepdim=True)

    def along(t, dim, length):
        at = ((torch.arange(length, dtype=torch.float64) + 0.5) / k - 0.5).clamp(0, t.shape[dim] - 1)
        low = at.floor().long()
        share = (at - low).view(-1, 1) if dim == 2 else at - low
        return torch.lerp(t.index_select(dim, low), t.index_select(dim, (low + 1).clamp(max=t.shape[dim] - 1)), share)

    low = (weights(image.shape[2]) @ image @ weights(image.shape[3]).T).clamp(0, 1)
    with torch.inference_mode():
        made = student.double()(normalise(low)).clamp(0, 1)
    student.float()
    mean, target = box(low), box(made)
    a = (box(low * made) - mean * target) / (box(low * low) - mean * mean + EPSILON)
    b = target - a * mean
    a, b = (along(along(box(t), 2, image.shape[2]), 3, image.shape[3]) for t in (a, b))
    return (a * image + b).clamp(0, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 257), (3, 5), (7, 4), (37, 53)], ids=str)
@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_equality_with_the_definition(student, size, k, batch):
    image = torch.rand(batch, 3, *size, dtype=torch.float64)
    expected = definition(student, image, k)
    exactly = famkern.Dehazer(student, scale=k, dtype=torch.float64)(image)
    assert (exactly - expected).abs().max() < 1e-12
    assert (famkern.Dehazer(student, scale=k)(image) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("k", [2, 3, 8])
def test_bounds_and_threads_leave_the_bits(student, k):
    image = torch.rand(3, 400, 311)
    expected = famkern.Dehazer(student, scale=k)(image)
    for threads in (1, 2, 3):
        dehazer = famkern.Dehazer(student, scale=k, threads=threads)
        for memory in (dehazer.least_memory(400, 311), "30MiB", None):
            assert torch.equal(dehazer.limited(memory)(image), expected)


@pytest.mark.parametrize("band", [1, 3, 50])
def test_bands_leave_the_bits(student, band, monkeypatch):
    image = torch.rand(3, 131, 97)
    expected = famkern.Dehazer(student, scale=2)(image)
    seen = []

    def with_band(*arguments, **options):
        seen.append(plan_reduced(*arguments, **options, band=band))
        return seen[-1]

    monkeypatch.setattr(engine, "plan_reduced", with_band)
    assert torch.equal(famkern.Dehazer(student, scale=2)(image), expected)
    assert [plan.band for plan in seen] == [band]


def test_the_least_bound_is_the_least(student):
    dehazer = famkern.Dehazer(student, scale=3)
    least = dehazer.least_memory(300, 400)
    assert dehazer.limited(least)._plan(300, 400, torch.device("cpu"), least).need <= least
    with pytest.raises(famkern.MemoryBoundError, match=f"400 x 300 pixels at scale 3 needs .* at least {least} bytes"):
        dehazer.limited(least - 1)(torch.rand(3, 300, 400))


def test_the_need_counts_the_reduced_picture_and_the_output(student):
    plan = famkern.Dehazer(student, scale=2)._plan(2000, 3000, torch.device("cpu"), None)
    assert plan.need >= plan.network.need + 24 * 1000 * 1500


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[::-1].copy()[::-1],
        lambda a: a[:, :, ::-1].copy()[:, :, ::-1],
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),  # read-only
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_arrays_of_any_strides_and_order_of_bytes(student, make, dtype):
    values = np.random.default_rng(0).random((23, 31, 3))
    full = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    image = (values * full).astype(dtype)
    dehazer = famkern.Dehazer(student, scale=2)
    result = dehazer(make(image))
    assert result.dtype == make(image).dtype
    assert np.array_equal(result, dehazer(image))
    expected = definition(student, torch.from_numpy(image / full).permute(2, 0, 1)[None].double(), 2)[0]
    error = np.abs(result / full - expected.permute(1, 2, 0).numpy()).max()
    assert error <= (0.501 / full if full > 1 else 0) + 1e-5


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_16_bit_pictures(student, kind):
    image = torch.rand(3, 23, 31).to(kind)
    result = famkern.Dehazer(student, scale=2)(image)
    assert result.dtype == kind
    assert (result - definition(student, image.double()[None], 2)[0]).abs().max() < torch.finfo(kind).eps


def test_strength_mixes_at_full_resolution(student):
    image = torch.rand(3, 33, 47)
    full = famkern.Dehazer(student, scale=3)(image)
    half = famkern.Dehazer(student, scale=3, strength=0.5)(image)
    assert (half - (image + full) / 2).abs().max() < 1e-6
    assert torch.equal(famkern.Dehazer(student, scale=3, strength=0)(image), image)


def test_progress_grows_to_one(student):
    fractions = []
    famkern.Dehazer(student, scale=2)(torch.rand(2, 3, 400, 4000), progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert len(set(fractions)) > 10


def test_maps_that_overflow_are_an_error_here_too():
    student = Student(16, 2, 2)
    with torch.no_grad():
        student.pre[0].bias += 1e6
    with pytest.raises(ValueError, match="overflow float16"):
        famkern.Dehazer(student, dtype="float16", scale=2)(torch.rand(3, 40, 40))


def test_the_window_counts_pixels_of_the_reduced_picture(student):
    local = Student(16, 2, 1, window=16).eval()
    local.load_state_dict(student.state_dict())
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    expected = definition(local, image, 2)
    dehazers = (famkern.Dehazer(student, scale=2, window=window, dtype="float64") for window in (16, 0))
    right, wrong = ((dehazer(image) - expected).abs().max() for dehazer in dehazers)
    assert right < 1e-12
    assert wrong > 1e-9


@pytest.mark.parametrize("scale", [0, 9, -1, 1.5, 2.0, True, "2", "", None, float("nan")])
def test_a_scale_out_of_range_is_refused(student, scale):
    with pytest.raises(ValueError, match='scale is a whole number from 1 to 8, or "auto", not'):
        famkern.Dehazer(student, scale=scale)


def test_numbers_of_numpy_are_numbers(student):
    assert famkern.Dehazer(student, scale=np.int64(3)).scale == 3


@pytest.mark.parametrize(
    ("side", "scale"), [(1, 1), (640, 1), (960, 1), (961, 2), (1600, 2), (1601, 3), (3840, 6), (99999, 8)]
)
def test_auto_rounds_half_down(side, scale):
    student = Student(16, 1, 1)
    student.scale_side = 640
    dehazer = famkern.Dehazer(student, scale="auto")
    assert dehazer.scale_of(side, 1) == dehazer.scale_of(1, side) == scale
    student.scale_side = None
    assert famkern.Dehazer(student, scale="auto").scale_of(side, side) == 1


def test_auto_without_a_side_says_so(student, caplog):
    with caplog.at_level("INFO", logger="famkern"):
        famkern.Dehazer(student, scale="auto")
    assert "scale is 1 for all pictures" in caplog.text
