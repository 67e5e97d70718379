"""Whatever the band height, the tile and the storage, the result is that of the whole picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from famkern import engine
from famkern.engine import disk
from famkern.models import Student, UStudent
from famkern.models.student import normalise
from famkern.ops import formulas

from .test_line import US, lowered

CPU = torch.device("cpu")
SIZES = [(1, 1), (3, 257), (1, 40), (40, 1), (2, 2), (37, 53), (64, 17)]
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}


class Result:
    """Takes the result of a run, and sees to it that it comes from the first row to the last."""

    def __init__(self, image):
        self.picture, self.rows = torch.empty_like(image), 0

    def write(self, start, stop, band):
        assert start == self.rows
        self.rows = stop
        self.picture[:, start:stop] = band[0].permute(2, 0, 1)


def run(student, image, *, dtype, band=None, tile=1, spill=False, maps=None, **options):
    """The engine on a picture (3, H, W)."""
    line = lowered(student, dtype, maps)
    plan = engine.make_plan(
        line, *image.shape[1:], tile=tile, memory=None, available=1 << 36, window=student.window, band=band
    )
    plan, result = replace(plan, spill=spill), Result(image)
    with torch.inference_mode():
        engine.run(plan, engine.Pixels(image.permute(1, 2, 0)), result, CPU, **options)
    assert result.rows == image.shape[1]
    return result.picture


def whole(student, image):
    with torch.inference_mode():
        return student(normalise(image[None])).clamp(0, 1)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numbers", [(16, 3, 2), (16, 1, 1), (32, 2, 3)])
@pytest.mark.parametrize("size", SIZES)
def test_the_line_is_the_network(numbers, size, dtype):
    torch.manual_seed(0)
    student = Student(*numbers).to(dtype).eval()
    image = torch.rand(3, *size, dtype=dtype)
    result = run(student, image, dtype=dtype)
    assert (result - whole(student, image)).abs().max() <= BOUNDS[dtype]


U_SIZES = [(1, 1), (1, 257), (3, 5), (7, 4), (37, 53), (31, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("numbers", "head"), [(US[0], "gain"), (US[1], "plain"), (US[2], "gain")])
@pytest.mark.parametrize("size", U_SIZES)
def test_the_line_is_the_u_too(numbers, head, size, dtype):
    torch.manual_seed(0)
    student = UStudent(*numbers, head=head).to(dtype).eval()
    image = torch.rand(3, *size, dtype=dtype)
    expected = whole(student, image)
    for band, tile, spill in ((None, 1, False), (4, 1, True), (16, 4, False)):
        result = run(student, image, dtype=dtype, band=band, tile=tile, spill=spill)
        assert (result - expected).abs().max() <= BOUNDS[dtype]


@pytest.mark.parametrize("size", [(131, 67), (64, 200), (1, 300)])
def test_the_u_over_windows(size):
    """Means at half the scale are of windows of half the side."""
    torch.manual_seed(0)
    student = UStudent((16, 32, 16), (1, 2, 1, 1, 2), window=64).double().eval()
    for name, parameter in student.named_parameters():
        if "calayer" in name:  # which channel attention of a new network hardly notices otherwise
            parameter.data *= 10
    image = torch.rand(3, *size, dtype=torch.float64)
    image[:, : size[0] // 2, : size[1] // 3] *= 0.2
    expected = whole(student, image)
    for band, tile in ((None, 1), (16, 4), (48, 4), (4, 1)):
        assert (run(student, image, dtype=torch.float64, band=band, tile=tile) - expected).abs().max() <= 1e-12
    student.window = None
    assert (whole(student, image) - expected).abs().max() > 1e-4  # so that a wrong window would show


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(70, 90), (1, 100), (100, 1), (33, 17), (16, 16), (131, 67)])
def test_the_line_is_the_network_with_means_over_windows(size, dtype):
    torch.manual_seed(0)
    student = Student(16, 2, 2, window=32).to(dtype).eval()
    for name, parameter in student.named_parameters():
        if "calayer" in name:  # which channel attention of a new network hardly notices otherwise
            parameter.data *= 10
    image = torch.rand(3, *size, dtype=dtype)
    image[:, : size[0] // 2, : size[1] // 3] *= 0.2
    expected = whole(student, image)
    for band, tile in ((None, 1), (4, 4), (12, 4), (7, 1)):
        assert (run(student, image, dtype=dtype, band=band, tile=tile) - expected).abs().max() <= BOUNDS[dtype]
    if min(size) > 32:
        student.window = None
        assert (whole(student, image) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(12))
def test_any_band_height_tile_and_storage_gives_the_same_picture(seed, dtype):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    student = Student(16, int(rng.integers(1, 4)), int(rng.integers(1, 3))).to(dtype).eval()
    height, width = (int(n) for n in rng.integers(1, 60, size=2))
    image = torch.rand(3, height, width, dtype=dtype)
    expected = whole(student, image)
    for tile in (1, 4):
        for band in {1, int(rng.integers(1, height + 1)), height}:
            for spill in (False, True):
                result = run(student, image, dtype=dtype, band=band, tile=tile, spill=spill)
                assert (result - expected).abs().max() <= BOUNDS[dtype], (height, width, tile, band, spill)


def test_spilled_maps_are_the_same_bits_as_maps_in_ram():
    torch.manual_seed(0)
    student = Student(16, 2, 2).eval()
    image = torch.rand(3, 70, 90)
    for maps in (torch.float32, torch.float16, torch.bfloat16):
        in_ram = run(student, image, dtype=torch.float32, maps=maps, band=8)
        on_disk = run(student, image, dtype=torch.float32, maps=maps, band=8, spill=True)
        assert torch.equal(in_ram, on_disk)


@pytest.mark.parametrize(("maps", "bound"), [(torch.float16, 4e-3), (torch.bfloat16, 4e-2)])
def test_maps_in_16_bits_cost_little_accuracy(maps, bound):
    torch.manual_seed(0)
    student = Student(16, 2, 2).eval()
    image = torch.rand(3, 40, 50)
    result = run(student, image, dtype=torch.float32, maps=maps)
    error = (result - whole(student, image)).abs().max()
    assert 0 < error <= bound


def test_the_spill_file_is_gone_whatever_happens(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMKERN_SPILL_DIR", str(tmp_path))
    monkeypatch.setattr(disk, "IN_MEMORY", set())
    student, image = Student(16, 1, 1).eval(), torch.rand(3, 50, 50)
    seen = []
    conv3x3 = formulas.conv3x3

    def spy(*arguments):
        seen.append(list(tmp_path.iterdir()))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return conv3x3(*arguments)

    monkeypatch.setattr(formulas, "conv3x3", spy)
    with pytest.raises(KeyboardInterrupt):
        run(student, image, dtype=torch.float64, band=8, spill=True)
    assert seen == [[]] * 5
    assert not list(tmp_path.iterdir())
