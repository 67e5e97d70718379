"""Which implementation of the stages runs where."""

import logging
import types

import pytest
import torch

from famkern.ops import route

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
    monkeypatch.setattr(route.gpu, "why_not", lambda _: None)
    monkeypatch.setattr(route.library, "why_not_cuda", lambda: None if built else "not built")
    names = types.SimpleNamespace(block_stage="triton", block_stage_cuda="cuda")
    monkeypatch.setattr(route, "_operators", lambda: names)
    for channels, storage, wanted in (
        (16, torch.float16, "cuda" if built else "triton"),
        (16, torch.bfloat16, "cuda" if built else "triton"),
        (16, torch.float32, "triton"),
        (32, torch.float16, "triton"),
    ):
        weight = types.SimpleNamespace(device=CUDA, shape=(channels, channels, 3, 3), dtype=torch.float32)
        assert route.operator("block_stage", None, weight, storage) == wanted


@pytest.mark.parametrize("built", [True, False])
def test_what_is_described_is_what_is_chosen(monkeypatch, built) -> None:
    monkeypatch.setattr(route.gpu, "why_not", lambda _: None)
    monkeypatch.setattr(route.library, "why_not_cuda", lambda: None if built else "not built")
    assert route.describe_gpu(CUDA).startswith("CUDA C++" if built else "Triton")
    monkeypatch.setattr(route.gpu, "why_not", lambda _: "too old")
    assert route.describe_gpu(CUDA) == "PyTorch's operators: too old"
    monkeypatch.setenv("FAMKERN_REFERENCE", "1")
    assert route.describe_gpu(CUDA) == "PyTorch's operators: FAMKERN_REFERENCE=1 asks for it"
