"""The GPU's benchmark says where there is none, and refuses to time what is wrong."""

import bench_gpu
import pytest
import torch
from gpu_report import EAGER, OURS


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, capsys):
    assert bench_gpu.main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "bench_gpu: nothing measured, PyTorch finds no CUDA device here\n"
    assert not list(tmp_path.iterdir())


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    picture = torch.rand(1, 3, 5, 7)
    monkeypatch.setattr(bench_gpu, "pictures", lambda _: [picture])
    monkeypatch.setattr(bench_gpu, "exact", lambda image, _: image)
    coarse = {EAGER: lambda image: image + 1e-3}
    bench_gpu.verify({OURS[0]: lambda image: image + 1.9e-3, **coarse}, (5, 7), "student")
    with pytest.raises(AssertionError, match=r"not timed, because wrong: student on famkern, CUDA C\+\+"):
        bench_gpu.verify({OURS[0]: lambda image: image + 2.1e-3, **coarse}, (5, 7), "student")
    with pytest.raises(AssertionError, match="not timed"):
        bench_gpu.verify({OURS[1]: lambda image: image * float("nan"), **coarse}, (5, 7), "student")
    noise = iter(torch.arange(9.0))
    with pytest.raises(AssertionError, match="not the same bits again"):
        bench_gpu.verify({OURS[1]: lambda image: image + 1e-5 * next(noise), **coarse}, (5, 7), "student")


def test_triton_alone_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(bench_gpu.route.library, "why_not_cuda", lambda: None)
    for name, wanted in zip(OURS, (True, False), strict=True):
        with bench_gpu.kernels(name):
            assert (bench_gpu.route.library.why_not_cuda() is None) is wanted
    monkeypatch.setattr(bench_gpu.route.library, "why_not_cuda", lambda: "not built")
    with pytest.raises(RuntimeError, match="not built"), bench_gpu.kernels(OURS[0]):
        pass
