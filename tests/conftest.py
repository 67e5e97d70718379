import zlib

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """What a test draws depends on its name alone, so that one that fails anywhere fails everywhere."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def kernels_for_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on a GPU are of its kernels, whatever a trial says of them."""
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setenv("FAMKERN_GPU", "1")
