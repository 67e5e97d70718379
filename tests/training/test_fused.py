"""A student on famkern's operators is the student, in what it computes and in what it learns."""

import pytest
import torch

from famkern.models import Student
from famkern.models.student import normalise
from famkern.training.fused import FusedStudent


def picture(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def gradients(network, image, clear):
    """Output, and the gradients of its distance from `clear` for the picture and all parameters."""
    network.zero_grad()
    image = normalise(image).requires_grad_()
    output = network(image)
    (output - clear).square().mean().backward()
    return output.detach(), [image.grad, *(p.grad.clone() for p in network.parameters())]


def distance(a, b):
    return ((a.double() - b).norm() / b.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("shape", [(2, 37, 53), (1, 1, 1), (1, 3, 70), (1, 1, 9), (3, 8, 24)], ids=str)
@pytest.mark.parametrize("numbers", [(16, 3, 2), (32, 1, 1)], ids=str)
def test_output_and_gradients(shape, numbers):
    torch.manual_seed(0)
    student, batch = Student(*numbers), shape[0]
    hazy, clear = picture(batch, 3, *shape[1:]), picture(batch, 3, *shape[1:], seed=1)
    output, grads = gradients(FusedStudent(student), hazy, clear)
    _, own_grads = gradients(student, hazy, clear)
    expected, expected_grads = gradients(student.double(), hazy.double(), clear.double())
    assert distance(output, expected) < 2e-6
    # A rectifier near its corner may go either way in float32; the module's own error says where that matters.
    for mine, own, exact in zip(grads, own_grads, expected_grads, strict=True):
        assert distance(mine, exact) < max(1e-4, 4 * distance(own, exact))


def test_parameters_are_shared():
    student = Student(16, 1, 1)
    assert {id(p) for p in FusedStudent(student).parameters()} == {id(p) for p in student.parameters()}


def test_other_precisions_run_on_pytorch():
    torch.manual_seed(0)
    student = Student(16, 2, 1).double()
    image = picture(1, 3, 9, 10).double()
    torch.testing.assert_close(FusedStudent(student)(image), student(image))


def test_autocast_does_not_reach_it():
    student = Student(16, 1, 1)
    image = picture(1, 3, 9, 10)
    with torch.autocast("cpu", torch.bfloat16):
        inside = FusedStudent(student)(image)
    assert torch.equal(inside, FusedStudent(student)(image))


def test_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match="norm=None"):
        FusedStudent(Student(16, 1, 1, norm="batch"))


@pytest.mark.parametrize("fused", [False, True], ids=["student", "fused"])
def test_compile_and_export(fused):
    torch.manual_seed(0)
    student = Student(16, 1, 1)
    network = FusedStudent(student) if fused else student
    image = picture(1, 3, 12, 13)
    expected = network(image)
    torch.testing.assert_close(torch.compile(network, backend="aot_eager", fullgraph=True)(image), expected)
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(image), expected)
