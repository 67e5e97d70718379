"""Which compiled kernels can run here."""

import types

import pytest

from famkern.ops import library


@pytest.mark.parametrize(
    ("driver", "reason"), [(13010, None), (13000, None), (12090, "the driver knows 12.9"), (0, "0.0")]
)
def test_kernels_for_a_newer_driver_are_not_used(monkeypatch, driver, reason) -> None:
    def versions(of) -> None:
        of[:] = driver, 13000

    monkeypatch.setattr(library, "has_cuda_stages", lambda: True)
    monkeypatch.setattr(library.ctypes, "CDLL", lambda _: types.SimpleNamespace(famkern_cuda_versions=versions))
    library.why_not_cuda.cache_clear()
    found = library.why_not_cuda()
    library.why_not_cuda.cache_clear()
    assert found is None if reason is None else reason in found
