import zlib

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """What a test draws depends on its name alone, so that one that fails anywhere fails everywhere."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
