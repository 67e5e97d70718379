"""The comparison of kernels with float64 that a machine can make by itself."""

import pytest
import torch

from famkern import selftest
from famkern.ops import block

CPU = torch.device("cpu")


def test_the_kernels_of_this_cpu_pass(capsys):
    selftest.main("cpu")
    assert capsys.readouterr().out.count("error") == 15


def test_a_wrong_stage_is_told(monkeypatch):
    operator = block.operator

    def nearly(name, reference, weight, storage):
        right = operator(name, reference, weight, storage)
        if weight.dtype == torch.float64:
            return right

        def stage(*given):
            right(*given)
            *_, new_x, _new_z, _sums, _top, _bottom, _cell, _first_row = given
            new_x[:, -1, -1] += 0.01

        return stage

    monkeypatch.setattr("famkern.ops.block.operator", nearly)
    with pytest.raises(SystemExit, match=r"16 channels, torch\.float32, 1 x 1: error"):
        selftest.main("cpu")


def test_results_that_are_not_always_the_same_are_told(monkeypatch):
    calls = iter(range(1000))
    call = selftest.Dehazer.__call__
    monkeypatch.setattr(selftest.Dehazer, "__call__", lambda *given: call(*given) + 1e-7 * next(calls))
    with pytest.raises(selftest.Wrong, match="differ"):
        selftest.check_networks(CPU)


def test_a_wrong_affinity_is_told(monkeypatch):
    right = selftest.feature_affinity_loss
    monkeypatch.setattr(selftest, "feature_affinity_loss", lambda *given, **options: 1.01 * right(*given, **options))
    with pytest.raises(selftest.Wrong, match=r"feature affinity of 3 channels, torch\.float32: relative error 0\.01"):
        selftest.check_affinity(CPU)
