"""Which implementation of the stages runs where."""

import dataclasses
import logging

import pytest
import torch

from famkern.ops import route
from famkern.ops.kinds import KINDS

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("FAMKERN_REFERENCE", raising=False)
    route.library.announce.cache_clear()


def test_a_gpu_has_a_route_of_its_own(monkeypatch, caplog) -> None:
    monkeypatch.setattr(route.gpu, "why_not", lambda _: None)
    with caplog.at_level(logging.WARNING):
        assert {route.choose(CUDA, C, torch.float32) for C in (16, 32, 64)} == {route.GPU}
    assert not caplog.text


def test_what_triton_does_not_have_takes_the_reference_and_the_log_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(route.gpu, "why_not", lambda _: None)
    assert route.choose(CUDA, 16, torch.float64) is route.REFERENCE
    assert "float32, not torch.float64" in caplog.text
    assert route.choose(CUDA, 24, torch.float32) is route.REFERENCE
    assert "16, 32 or 64 channels, not 24" in caplog.text


def test_the_reference_can_be_asked_for_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setenv("FAMKERN_REFERENCE", "1")
    assert route.choose(CUDA, 16, torch.float32) is route.REFERENCE


def test_a_gpu_whose_kernels_are_not_used_takes_the_reference_and_the_log_says_why(monkeypatch, caplog) -> None:
    monkeypatch.setattr(route.gpu, "why_not", lambda _: "they fail")
    assert route.choose(CUDA, 16, torch.float32) is route.REFERENCE
    assert "slower: they fail" in caplog.text


@pytest.mark.parametrize("built", [True, False])
def test_cuda_comes_before_triton_where_it_has_the_stage(monkeypatch, built) -> None:
    monkeypatch.setattr(route.library, "why_not_cuda", lambda: None if built else "not built")
    block, unknown = KINDS["block"], dataclasses.replace(KINDS["block"], kernels=frozenset({"triton"}))
    picture = torch.empty(1, 2, 2, 3)
    for kind, channels, storage, wanted in (
        (block, 16, torch.float16, built),
        (block, 16, torch.bfloat16, built),
        (block, 16, torch.float32, False),
        (block, 32, torch.float16, False),
        (unknown, 16, torch.float16, False),
    ):
        assert route.is_in_cuda(kind, [picture, torch.empty(1, 2, 2, channels, dtype=storage)]) is wanted
    coarse, fine = (torch.empty(1, 2, 2, channels, dtype=torch.float16) for channels in (32, 16))
    assert route.is_in_cuda(KINDS["up"], [coarse, fine, fine, fine]) is built
    assert not route.is_in_cuda(KINDS["down"], [fine, coarse, coarse])


def test_a_kind_without_kernels_takes_the_reference_and_the_log_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(route.gpu, "why_not", lambda _: None)
    monkeypatch.setattr(route.library, "why_not_compiled", lambda: None)
    without = dataclasses.replace(KINDS["block"], name="roof", kernels=frozenset())
    for device, kernels, kind in ((torch.device("cpu"), "compiled", route.COMPILED), (CUDA, "Triton", route.GPU)):
        assert route.choose(device, {16, 32}, torch.float32, KINDS["block"]) is kind
        assert route.choose(device, {16, 32}, torch.float32, without) is route.REFERENCE
        assert f"the {kernels} kernels do not have the stage roof" in caplog.text


def test_a_line_on_two_routes_has_the_tiles_and_the_workspace_of_both() -> None:
    fine = route.Route("fine", 1, 100, lambda *_: 7)
    coarse = route.Route("coarse", 4, 50, lambda *_: 5)
    both = route.join([fine, coarse])
    assert (both.tile, both.band_pixels, both.workspace_bytes(1, 2, 3, 4, torch.float32)) == (4, 100, 7)
    assert route.join([coarse]) is coarse


@pytest.mark.parametrize("built", [True, False])
def test_what_is_described_is_what_is_chosen(monkeypatch, built) -> None:
    monkeypatch.setattr(route.gpu, "why_not", lambda _: None)
    monkeypatch.setattr(route.library, "why_not_cuda", lambda: None if built else "not built")
    assert route.describe_gpu(CUDA).startswith("CUDA C++" if built else "Triton")
    monkeypatch.setattr(route.gpu, "why_not", lambda _: "too old")
    assert route.describe_gpu(CUDA) == "PyTorch's operators: too old"
    monkeypatch.setenv("FAMKERN_REFERENCE", "1")
    assert route.describe_gpu(CUDA) == "PyTorch's operators: FAMKERN_REFERENCE=1 asks for it"
