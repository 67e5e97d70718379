import signal
import zlib
from collections.abc import Iterator

import pytest
import torch


def pytest_report_header() -> str | None:
    return None if torch.cuda.is_available() else "no CUDA device: tests that need one are deselected"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no process ends up with one of them when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if torch.cuda.is_available() or config.option.collectonly:
        return
    needing = [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=needing)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """What a test draws depends on its name alone, so that one that fails anywhere fails everywhere."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Commands that were interrupted in this process ignore further interrupts to their end, which here is not the end."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def kernels_for_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on a GPU are of its kernels, whatever a trial says of them."""
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setenv("FAMKERN_GPU", "1")
