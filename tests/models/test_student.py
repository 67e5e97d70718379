"""The student family is the network that the papers define."""

import pytest
import torch
import torch.nn.functional as F

from famkern.models import Student
from famkern.models.student import IMAGE_MEAN, IMAGE_STD, fold_norm, normalise

SIZES = [(1, 1), (3, 257), (1, 31), (29, 1), (37, 53)]


def definition(tensors, x1, groups, blocks):
    """The student as its definition reads, step by step, from its tensors alone."""

    def conv(name, x):
        weight = tensors[f"{name}.weight"]
        return F.conv2d(x, weight, tensors[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def channel_weights(first, second, x):
        return torch.sigmoid(conv(second, torch.relu(conv(first, x.mean((2, 3), keepdim=True)))))

    def pixel_weights(name, x):
        return torch.sigmoid(conv(f"{name}.2", torch.relu(conv(f"{name}.0", x))))

    def block(name, x):
        r = torch.relu(conv(f"{name}.conv1", x)) + x
        z = conv(f"{name}.conv2", r)
        z = z * channel_weights(f"{name}.calayer.ca.0", f"{name}.calayer.ca.2", z)
        z = z * pixel_weights(f"{name}.palayer.pa", z)
        return z + x

    x = conv("pre.0", x1)
    results = []
    for g in range(1, groups + 1):
        y = x
        for b in range(blocks):
            y = block(f"g{g}.gp.{b}", y)
        x = conv(f"g{g}.gp.{blocks}", y) + x
        results.append(x)
    c = x.shape[1]
    w = channel_weights("ca.1", "ca.3", torch.cat(results, 1)).view(-1, groups, c, 1, 1)
    o = sum(w[:, i] * results[i] for i in range(groups))
    o = o * pixel_weights("palayer.pa", o)
    return conv("post.1", conv("post.0", o)) + x1


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("channels", "groups", "blocks"), [(16, 3, 6), (64, 3, 2), (32, 1, 1), (16, 2, 3)])
@pytest.mark.parametrize("size", SIZES)
def test_student_is_the_definition(channels, groups, blocks, size, dtype, bound):
    torch.manual_seed(0)
    student = Student(channels, groups, blocks).to(dtype)
    image = torch.rand(2, 3, *size, dtype=dtype)
    mean, std = (torch.tensor(v, dtype=dtype).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    with torch.inference_mode():
        expected = definition(student.state_dict(), (image - mean) / std, groups, blocks)
        assert (student(normalise(image)) - expected).abs().max() <= bound


@pytest.mark.parametrize(("numbers", "count"), [((16, 3, 6), 96_007), ((64, 3, 19), 4_455_913)])
def test_number_of_parameters_is_that_of_the_papers(numbers, count):
    assert sum(p.numel() for p in Student(*numbers).parameters()) == count


def test_parameter_names_are_those_of_the_papers_checkpoints():
    names = {name.rsplit(".", 1)[0] for name in Student(16, 3, 6).state_dict()}
    block = {"conv1", "conv2", "calayer.ca.0", "calayer.ca.2", "palayer.pa.0", "palayer.pa.2"}
    expected = {f"g{g}.gp.{b}.{part}" for g in (1, 2, 3) for b in range(6) for part in block}
    expected |= {"g1.gp.6", "g2.gp.6", "g3.gp.6", "pre.0", "ca.1", "ca.3", "palayer.pa.0", "palayer.pa.2"}
    assert names == expected | {"post.0", "post.1"}


@pytest.mark.parametrize("numbers", [(15, 3, 6), (0, 3, 6), (24, 3, 6), (16, 0, 6), (16, 3, 0)])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="multiple of 16 and two counts of 1 or more"):
        Student(*numbers)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="'layer'"):
        Student(norm="layer")


def test_folding_batch_norm_changes_nothing_but_the_layers():
    torch.manual_seed(0)
    student = Student(16, 2, 2, norm="batch").double()
    for _ in range(3):  # let the running statistics move away from their start
        student(torch.randn(2, 3, 9, 11, dtype=torch.float64))
    student.eval()
    plain = Student(16, 2, 2).double()
    plain.load_state_dict(fold_norm(student.state_dict()))
    image = torch.randn(1, 3, 13, 7, dtype=torch.float64)
    assert (plain(image) - student(image)).abs().max() < 1e-12


def test_folding_leaves_a_student_without_norm_as_it_is():
    tensors = Student(16, 1, 1).state_dict()
    assert fold_norm(tensors) == tensors
