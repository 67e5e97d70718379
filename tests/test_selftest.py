"""The comparison of kernels with float64 that a machine can make by itself."""

import re

import pytest
import torch

from famkern import selftest
from famkern.ops import library
from famkern.ops import stage as ops

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(library.why_not_compiled() is not None, reason="needs the compiled CPU kernels")


def test_the_kernels_of_this_cpu_pass_and_errors_would_show(capsys):
    assert selftest.problem_on(CPU) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * 3 * 3 + 2 * 4 * 4 * 4
    assert all(int(re.search(r"(\d+)% at the ends", line)[1]) < 10 for line in lines[:36])


def test_a_wrong_stage_is_told(monkeypatch):
    right = ops.stage

    def nearly(kind, maps, gate, weights, outputs, *others):
        right(kind, maps, gate, weights, outputs, *others)
        if kind == "block" and weights[0].dtype == torch.float32:
            outputs[0][:, -1, -1] += 0.01

    monkeypatch.setattr(ops, "stage", nearly)
    assert re.match(r"Wrong: 16 channels, torch\.float32, 1 x 1: error", selftest.problem_on(CPU))


def test_results_that_are_not_always_the_same_are_told(monkeypatch):
    calls = iter(range(1000))
    call = selftest.Dehazer.__call__
    monkeypatch.setattr(selftest.Dehazer, "__call__", lambda *given: call(*given) + 1e-7 * next(calls))
    with pytest.raises(selftest.Wrong, match="repeated runs differ"):
        selftest.check_networks(CPU)


def test_bands_that_change_the_result_are_told(monkeypatch):
    call = selftest.Dehazer.__call__
    monkeypatch.setattr(selftest.Dehazer, "__call__", lambda self, image: call(self, image) + 1e-7 * bool(self.memory))
    with pytest.raises(selftest.Wrong, match="bands change the result"):
        selftest.check_networks(CPU)


def test_a_wrong_affinity_is_told(monkeypatch):
    right = selftest.feature_affinity_loss
    monkeypatch.setattr(selftest, "feature_affinity_loss", lambda *given, **options: 1.01 * right(*given, **options))
    with pytest.raises(selftest.Wrong, match=r"feature affinity of 3 channels.*loss: relative error 0\.01"):
        selftest.check_affinity(CPU)


def test_a_crash_is_told_in_a_line_and_having_nothing_to_try_too(monkeypatch):
    def crash(_device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(selftest, "check_affinity", crash)
    monkeypatch.setattr(selftest, "check_networks", lambda _: None)
    assert selftest.problem_on(CPU) == "RuntimeError: CUDA error: an illegal memory access was encountered"
    monkeypatch.setattr(selftest.library, "why_not_compiled", lambda: "not built")
    assert selftest.problem_on(CPU) == "there are no kernels to try: not built"
