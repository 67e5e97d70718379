"""The teacher is the DSC-FSRCNN of the paper, once for each colour."""

import pytest
import torch
import torch.nn.functional as F

from famkern.models import DSCFSRCNN, Teacher


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 13), (11, 7)])
def test_one_colour_is_the_definition(size, scale):
    torch.manual_seed(0)
    network = DSCFSRCNN(scale).double()
    t = network.state_dict()
    x = torch.rand(2, 1, *size, dtype=torch.float64)

    def separable(name, x):
        depthwise = t[f"{name}.depthwise.weight"]
        channels, padding = depthwise.shape[0], depthwise.shape[-1] // 2
        x = F.conv2d(x, depthwise, t[f"{name}.depthwise.bias"], padding=padding, groups=channels)
        return F.conv2d(x, t[f"{name}.pointwise.weight"], t[f"{name}.pointwise.bias"])

    first = F.prelu(F.conv2d(x, t["first_part.0.weight"], t["first_part.0.bias"], padding=2), t["first_part.1.weight"])
    mid = first
    for index in range(0, 12, 2):
        mid = F.prelu(separable(f"mid_part.{index}", mid), t[f"mid_part.{index + 1}.weight"])
    last = F.conv_transpose2d(
        mid, t["last_part.weight"], t["last_part.bias"], stride=scale, padding=4, output_padding=scale - 1
    )
    for result, expected in zip(network(x), (first, mid, last), strict=True):
        assert (result - expected).abs().max() < 1e-12
    assert last.shape == (2, 1, scale * size[0], scale * size[1])


def test_colours_are_independent():
    teacher = Teacher()
    image = torch.rand(1, 3, 5, 6)
    changed = image.clone()
    changed[:, 0] = 0
    before, after = teacher(image), teacher(changed)
    assert before.shape == (1, 3, 10, 12)
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert not torch.equal(before[:, 0], after[:, 0])


def test_scale_below_two_is_refused():
    with pytest.raises(ValueError, match="2 or more, not 1"):
        Teacher(1)
