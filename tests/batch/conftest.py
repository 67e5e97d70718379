"""What the tests of batches share: a small network."""

import pytest
import torch

import famkern
from famkern.models import Student


@pytest.fixture(scope="module")
def dehazer():
    torch.manual_seed(0)
    return famkern.Dehazer(Student(16, 1, 1))
