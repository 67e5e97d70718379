"""A student on famkern's operators is the student, in what it computes and in what it learns."""

import pytest
import torch

from famkern.models import Student, UStudent
from famkern.models.student import normalise
from famkern.training.fused import FusedStudent, FusedUStudent, fused


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


NETWORKS = {
    "student": lambda: Student(16, 3, 2),
    "a wider one": lambda: Student(32, 1, 1),
    "three levels": lambda: UStudent(blocks=(1, 1, 1, 1, 1)),
    "two levels, plain head": lambda: UStudent((16, 32), (1, 2, 1), head="plain"),
}


@pytest.mark.parametrize("shape", [(2, 37, 53), (1, 1, 1), (1, 3, 70), (1, 1, 9), (3, 8, 24)], ids=str)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_output_and_gradients(shape, make):
    torch.manual_seed(0)
    student, batch = make(), shape[0]
    hazy, clear = picture(batch, 3, *shape[1:]), picture(batch, 3, *shape[1:], seed=1)
    output, grads = gradients(fused(student), hazy, clear)
    _, own_grads = gradients(student, hazy, clear)
    expected, expected_grads = gradients(student.double(), hazy.double(), clear.double())
    assert distance(output, expected) < 2e-6
    # A rectifier near its corner may go either way in float32; the module's own error says where that matters.
    for mine, own, exact in zip(grads, own_grads, expected_grads, strict=True):
        assert distance(mine, exact) < max(1e-4, 4 * distance(own, exact))


def test_parameters_are_shared():
    student = Student(16, 1, 1)
    assert {id(p) for p in FusedStudent(student).parameters()} == {id(p) for p in student.parameters()}


def test_each_family_has_its_own():
    assert isinstance(fused(Student(16, 1, 1)), FusedStudent)
    assert isinstance(fused(UStudent()), FusedUStudent)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_other_precisions_run_on_pytorch(make):
    torch.manual_seed(0)
    student = make().double()
    image = picture(1, 3, 9, 10).double()
    torch.testing.assert_close(fused(student)(image), student(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("make", "names"), [("student", ["g1", "g3"]), ("three levels", ["e1", "e3", "d2", "d1"])])
def test_hidden_maps_are_those_of_the_modules(make, names):
    torch.manual_seed(0)
    student, maps = NETWORKS[make](), {}
    for name in names:
        student.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: maps.update({name: out}))
    image = normalise(picture(2, 3, 21, 30))
    expected = student(image)
    output, hidden = fused(student)(image, hidden=names)
    assert distance(output, expected) < 2e-6
    assert list(hidden) == names
    for name in names:
        assert distance(hidden[name], maps[name]) < 2e-6
        assert hidden[name].requires_grad


def test_hidden_maps_that_there_are_none_of():
    with pytest.raises(ValueError, match="g1, not 'g2'"):
        FusedStudent(Student(16, 1, 1))(picture(1, 3, 8, 8), hidden=["g2"])


def test_autocast_does_not_reach_it():
    student = Student(16, 1, 1)
    image = picture(1, 3, 9, 10)
    with torch.autocast("cpu", torch.bfloat16):
        inside = FusedStudent(student)(image)
    assert torch.equal(inside, FusedStudent(student)(image))


def test_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match="norm=None"):
        FusedStudent(Student(16, 1, 1, norm="batch"))


@pytest.mark.parametrize(
    "make", [lambda: Student(16, 1, 1), lambda: UStudent((16, 32), (1, 1, 1))], ids=["student", "u"]
)
@pytest.mark.parametrize("operators", [False, True], ids=["module", "fused"])
def test_compile_and_export(make, operators):
    torch.manual_seed(0)
    network = fused(make()) if operators else make()
    image = picture(1, 3, 12, 13)
    expected = network(image)
    torch.testing.assert_close(torch.compile(network, backend="aot_eager", fullgraph=True)(image), expected)
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(image), expected)
