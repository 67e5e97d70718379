"""Means over windows are what their definition says, place by place."""

import pytest
import torch

from famkern.models import Student, windows
from famkern.models.student import ChannelAttention

SIZES = [(64, 64), (1, 90), (90, 1), (33, 70), (129, 65)]


@pytest.mark.parametrize("size", SIZES)
def test_means_at_corners_are_of_the_cells_around_them(size):
    x, window, cell = torch.rand(2, 3, *size, dtype=torch.float64), 32, 8
    found = windows.means(x, window)

    def span(corner, length):
        cells = -(-length // cell)
        first = min(max(corner - 2, 0), max(cells - 4, 0))
        return slice(first * cell, min((first + 4) * cell, length))

    corners = [-(-side // cell) + 1 for side in size]
    assert found.shape == (2, 3, *corners)
    for i in range(corners[0]):
        for j in range(corners[1]):
            expected = x[:, :, span(i, size[0]), span(j, size[1])].mean((2, 3))
            torch.testing.assert_close(found[:, :, i, j], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_weights_are_linear_between_corners(size):
    x = torch.rand(1, 2, *size, dtype=torch.float64)
    corners = windows.means(x, 32)
    spread = windows.interpolate(corners, 32, *size)
    for side, length in ((2, size[0]), (3, size[1])):
        assert spread.shape[side] == length
    at_corners = spread[:, :, ::8, ::8]
    torch.testing.assert_close(at_corners, corners[:, :, : at_corners.shape[2], : at_corners.shape[3]])
    for side in (2, 3):
        if spread.shape[side] > 8:
            halfway = spread.narrow(side, 4, 1)
            torch.testing.assert_close(halfway, (spread.narrow(side, 0, 1) + spread.narrow(side, 8, 1)) / 2)


@pytest.mark.parametrize("window", [None, 64, 96])
def test_a_window_that_holds_the_picture_is_the_whole(window):
    x = torch.rand(1, 4, 64, 50)
    assert torch.equal(windows.means(x, window), x.mean((2, 3), keepdim=True))
    weights = torch.rand(1, 4, 1, 1)
    assert windows.interpolate(weights, window, 64, 50) is weights


def test_a_student_trains_with_windows_and_can_change_them():
    torch.manual_seed(0)
    student, image = Student(16, 1, 2, window=32), torch.rand(1, 3, 70, 80, requires_grad=True)
    for module in student.modules():
        if isinstance(module, ChannelAttention):
            module.ca[0].bias.data += 1  # no unit is dead
    before = student(image)
    before.sum().backward()
    assert image.grad.isfinite().all()
    student.window = None
    assert not torch.equal(student(image), before)
    with pytest.raises(ValueError, match="multiple of 16"):
        student.window = 50
