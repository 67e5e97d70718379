"""The loss between named modules of two networks that famkern knows nothing about."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import famkern


class Network(nn.Module):
    def __init__(self, width: int, stride: int, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1))
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, image: Tensor) -> Tensor:
        hidden = checkpoint(self.body, image, use_reentrant=False) if self.checkpointed else self.body(image)
        tokens = hidden.flatten(2).mT
        return hidden.mean((1, 2, 3)) + self.attention(tokens, tokens, tokens)[0].mean()


LAYERS = [("body.0", "body.0"), ("body.2", "body.2"), ("attention", "attention")]
IMAGE = torch.rand(2, 3, 22, 30, generator=torch.Generator().manual_seed(0))


def networks(**options: bool) -> tuple[Network, Network]:
    torch.manual_seed(0)
    return Network(12, 1).eval().requires_grad_(False), Network(6, 2, **options)


def hidden(network: Network) -> list[Tensor]:
    first = network.body[0](IMAGE)
    last = network.body[2](network.body[1](first))
    tokens = last.flatten(2).mT
    return [first, last, network.attention(tokens, tokens, tokens)[0]]


@pytest.mark.parametrize("how", ["plain", "checkpointed", "compiled", "bfloat16"])
def test_it_is_the_loss_of_what_the_modules_put_out(how) -> None:
    teacher, student = networks(checkpointed=how == "checkpointed")
    layers = LAYERS[:2]  # the third pair has another number of tokens
    expected = famkern.feature_affinity_loss(
        hidden(teacher)[:2], hidden(student)[:2], teacher_pool=None, student_pool=None
    )
    expected.backward()
    wanted = [parameter.grad for parameter in student.body.parameters()]
    student.zero_grad()
    affinity = famkern.HookedAffinityLoss(teacher, student, layers)
    run = torch.compile(student, backend="eager") if how == "compiled" else student
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "bfloat16"):
        teacher(IMAGE)
        run(IMAGE)
        loss = affinity()
    loss.backward()
    loose = {"rtol": 0.1, "atol": 1e-4} if how == "bfloat16" else {}  # of the network, not of the loss
    torch.testing.assert_close(loss, expected.detach(), **loose)
    for parameter, gradient in zip(student.body.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **loose)


def test_a_tuple_begins_with_the_features_and_options_reach_the_loss() -> None:
    teacher, student = Network(12, 1), Network(6, 1)
    options = {"scale": "rms", "normalize": True}
    with famkern.HookedAffinityLoss(teacher, student, dict(LAYERS[2:]), **options) as affinity:
        teacher(IMAGE), student(IMAGE)
        wanted = famkern.feature_affinity_loss(
            hidden(teacher)[2], hidden(student)[2], teacher_pool=None, student_pool=None, **options
        )
        torch.testing.assert_close(affinity(), wanted)
    assert not any(module._forward_hooks for network in (teacher, student) for module in network.modules())


def test_each_loss_is_of_one_run_and_copies_do_not_record() -> None:
    teacher, student = networks()
    affinity = famkern.HookedAffinityLoss(teacher, student, LAYERS[:1])
    average = copy.deepcopy(student)
    teacher(IMAGE), student(IMAGE)
    average(IMAGE + 1)
    wanted = famkern.feature_affinity_loss(hidden(teacher)[0], hidden(student)[0], teacher_pool=None, student_pool=None)
    torch.testing.assert_close(affinity(), wanted)
    with pytest.raises(RuntimeError, match=r"the teacher's module body.0 has not run since the last loss"):
        affinity()


def test_what_is_not_there_is_named() -> None:
    teacher, student = networks()
    with pytest.raises(ValueError, match=r"the student has no module 'body.3'; among those that it has: body"):
        famkern.HookedAffinityLoss(teacher, student, {"body.0": "body.3"})
    with pytest.raises(ValueError, match=r"layers is \{\}"):
        famkern.HookedAffinityLoss(teacher, student, {})

    class Dictionary(nn.Identity):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"features": image}

    network = nn.Sequential(Dictionary())
    affinity = famkern.HookedAffinityLoss(network, network, {"0": "0"})
    network(IMAGE)
    with pytest.raises(TypeError, match="module 0 puts out a dict; a tensor, or a tuple"):
        affinity()


@pytest.mark.parametrize("layers", ["body.0", ("body.0", "body.2"), [("body.0", "body.0", "body.2")], {2: 0}, {}, None])
def test_what_is_no_pairs_of_names_is_refused(layers) -> None:
    with pytest.raises(ValueError, match="pairs of names"):
        famkern.HookedAffinityLoss(*networks(), layers)


def test_it_says_what_it_compares() -> None:
    affinity = famkern.HookedAffinityLoss(*networks(), {"body.0": "body.2"}, scale="rms")
    assert repr(affinity).startswith("HookedAffinityLoss({'body.0': 'body.2'}, teacher_pool=None, student_pool=None, ")
