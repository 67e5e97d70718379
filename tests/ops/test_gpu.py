"""The kernels for GPUs are used where they run and were seen to be right, and not elsewhere."""

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from famkern.ops import gpu

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch, tmp_path):
    """One that passes for real as far as PyTorch is asked, and a cache of its own."""
    monkeypatch.delenv("FAMKERN_GPU", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    find_spec = gpu.importlib.util.find_spec
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object() if name == "triton" else find_spec(name))
    forget()
    yield
    forget()


def forget():
    gpu._why_impossible.cache_clear()
    gpu._tried.cache_clear()


def trial(monkeypatch, code):
    """Let this program be the trial."""
    monkeypatch.setattr(gpu, "COMMAND", (sys.executable, "-c", code))


def test_kernels_that_pass_are_used_and_not_tried_again(monkeypatch, caplog):
    trial(monkeypatch, "import sys; sys.exit(sys.argv[1:] != ['cuda:0'])")
    assert gpu.why_not(CUDA) is None
    assert "trying the kernels on Some GPU" in caplog.text
    forget()
    trial(monkeypatch, "raise SystemExit('tried again')")
    assert gpu.why_not(torch.device("cuda")) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Another GPU")
    forget()
    assert "tried again" in gpu.why_not(CUDA)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; print('a result'); sys.exit('too far from float64')", "too far from float64"),
        ("raise ImportError('no such thing')", "no such thing"),
        ("import os; print('before', flush=True); os.abort()", "exit code -6 after: before"),
        ("raise SystemExit(1)", "no message"),
        ("import time; time.sleep(60)", "not done after 1 s"),
    ],
)
def test_kernels_that_fail_are_not_used_and_the_reason_is_told(monkeypatch, code, reason):
    monkeypatch.setattr(gpu, "LIMIT", 1 if "sleep" in code else 60)
    trial(monkeypatch, code)
    told = gpu.why_not(CUDA)
    assert reason in told
    assert "on Some GPU" in told
    assert "FAMKERN_GPU=1" in told
    monkeypatch.setattr(gpu, "LIMIT", 60)
    trial(monkeypatch, "")
    assert gpu.why_not(CUDA) == told  # once in a process
    forget()
    assert gpu.why_not(CUDA) is None  # and anew in the next


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path, caplog):
    (tmp_path / "famkern").write_text("in the way")
    trial(monkeypatch, "")
    with caplog.at_level(logging.WARNING):
        assert gpu.why_not(CUDA) is None
    assert f"{tmp_path / 'famkern'}" in caplog.text
    assert "cannot be written" in caplog.text


def test_a_cache_that_cannot_be_read_is_no_crash(monkeypatch, tmp_path, caplog):
    trial(monkeypatch, "")
    monkeypatch.setattr(
        gpu.Path, "exists", lambda _: (_ for _ in ()).throw(PermissionError("a home of somebody else's"))
    )
    monkeypatch.setattr(gpu, "_fingerprint", lambda _: "of this GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "no" / "such" / "home"))
    (tmp_path / "no").write_text("in the way")
    assert gpu.why_not(CUDA) is None
    assert "cannot be written" in caplog.text


def test_a_python_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr(gpu, "COMMAND", ("/no/such/python",))
    assert "/no/such/python does not start" in gpu.why_not(CUDA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_program_of_the_trial_is_this_famkern_s_whatever_the_folder(monkeypatch, tmp_path):
    (tmp_path / "famkern.py").write_text("raise SystemExit('a file of the user')")
    (tmp_path / "torch.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(tmp_path)
    problem = gpu._try(0)
    assert "CUDA" in problem or "NVIDIA" in problem  # there is none here
    assert "file of the user" not in problem


def test_threads_wait_for_one_trial(monkeypatch, tmp_path):
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    trial(
        monkeypatch,
        "import os, time; open(os.environ['RUNS'], 'a').write('x'); time.sleep(0.5); raise SystemExit('no')",
    )
    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(gpu.why_not, [CUDA] * 4))
    assert (tmp_path / "runs").read_text() == "x"
    assert len(set(reasons)) == 1


def test_the_trial_is_in_float32_and_untuned(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("FAMKERN_AUTOTUNE", "1")
    trial(
        monkeypatch,
        "import os; raise SystemExit(' '.join({'NVIDIA_TF32_OVERRIDE', 'FAMKERN_AUTOTUNE'} & {*os.environ}))",
    )
    assert gpu._try(0) == "no message"


def test_memory_that_pytorch_keeps_unused_is_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    segments = [
        {"device": device, "segment_pool_id": pool, "total_size": 50, "active_size": 20}
        for device, pool in ((0, (0, 0)), (1, (0, 0)), (0, (0, 1)))  # the last: of a graph
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    assert gpu.available_memory(CUDA) == gpu.available_memory(torch.device("cuda")) == 130
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "pluggable")
    assert gpu.available_memory(CUDA) == 100


def test_the_variable_spares_the_trial(monkeypatch):
    trial(monkeypatch, "raise SystemExit('tried')")
    monkeypatch.setenv("FAMKERN_GPU", "1")
    assert gpu.why_not(CUDA) is None
    monkeypatch.setenv("FAMKERN_GPU", "0")
    assert gpu.why_not(CUDA) == "FAMKERN_GPU=0 asks for it"
    monkeypatch.setenv("FAMKERN_GPU", "yes")
    with pytest.raises(ValueError, match="FAMKERN_GPU=yes: 1 to use"):
        gpu.why_not(CUDA)


@pytest.mark.parametrize("setting", ["1", None])
def test_an_old_gpu_and_a_missing_triton_are_named(monkeypatch, setting):
    trial(monkeypatch, "raise SystemExit('tried')")
    if setting:
        monkeypatch.setenv("FAMKERN_GPU", setting)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "compute capability 8.0, not 7.5" in gpu.why_not(CUDA)
    forget()
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: None)
    assert "pip install triton" in gpu.why_not(CUDA)
