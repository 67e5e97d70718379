"""examples/spandrel_famkern.py: spandrel finds out what famkern's weights are, and its results are famkern's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import famkern
from famkern.models import Student, UStudent
from famkern.models.student import normalise
from famkern.models.zoo import verified

try:
    spandrel = pytest.importorskip("spandrel", reason="needs spandrel (pip install spandrel)")
except RuntimeError as error:  # spandrel imports torchvision, which knows its operators only beside its own PyTorch
    pytest.skip(f"needs a torchvision of the same build as PyTorch ({error})", allow_module_level=True)
LAKE = Path(__file__).parents[2] / "examples/lake-sherburne-hazy.jpg"

EXAMPLE = Path(__file__).parents[2] / "examples/spandrel_famkern.py"
NETWORKS = {
    "student": lambda: Student(16, 2, 2),
    "FFA-Net's width": lambda: Student(64, 3, 1),
    "windows": lambda: Student(16, 1, 1, window=32),
    "batch norm": lambda: Student(16, 1, 2, norm="batch"),
    "U": lambda: UStudent((16, 32), (1, 1, 1)),
    "U, plain head": lambda: UStudent((16, 32, 64), (1, 1, 2, 1, 1), head="plain"),
}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("spandrel_famkern", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loader(example):
    example.register()
    example.register()  # twice is no error
    return spandrel.ModelLoader()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("wrapper", [None, "params_ema"])
def test_weights_are_recognised_and_give_the_same_picture(loader, tmp_path, name, wrapper):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    path = tmp_path / ("a.pth" if wrapper else "a.safetensors")
    if wrapper:
        torch.save({wrapper: network.state_dict()}, path)
    else:
        save_file(network.state_dict(), path)
    model = loader.load_from_file(path)
    assert isinstance(model, spandrel.ImageModelDescriptor)
    assert (model.purpose, model.scale, model.input_channels, model.output_channels) == ("Restoration", 1, 3, 3)
    assert model.architecture.id == ("famkern-u-student" if name.startswith("U") else "famkern-student")
    assert model.tiling == spandrel.ModelTiling.INTERNAL
    for size in ((1, 3, 37, 51), (1, 3, 5, 4)):
        hazy = torch.rand(size)
        clear = model(hazy)
        with torch.no_grad():
            assert torch.equal(clear, network(normalise(hazy)).clamp(0, 1))
        difference = (clear - famkern.Dehazer(network, device="cpu", dtype=torch.float32)(hazy)).abs().max()
        assert difference <= 1e-5


@pytest.mark.parametrize("name", ["student", "student-indoor", "u-indoor"])
def test_the_weights_that_come_with_famkern(example, loader, tmp_path, name):
    """With their windows, which are smaller than this picture."""
    example.save(name, tmp_path / "a.safetensors")
    model = loader.load_from_file(tmp_path / "a.safetensors")
    assert model.model.window == famkern.models.load(name).window
    pixels = np.asarray(Image.open(LAKE).convert("RGB"))[300:460, 400:640]
    hazy = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    difference = (model(hazy) - famkern.Dehazer(name, device="cpu", dtype=torch.float32)(hazy)).abs().max()
    assert difference <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precisions_that_it_says_it_supports(loader, dtype):
    model = loader.load_from_file(verified("student"))
    hazy = torch.rand(1, 3, 40, 56)
    exact = model(hazy)
    rounded = model.to(dtype)(hazy.to(dtype))
    assert rounded.dtype == dtype
    assert (rounded.float() - exact).abs().mean() <= 8 * torch.finfo(dtype).eps


def test_other_networks_are_left_to_others(loader):
    with pytest.raises(spandrel.UnsupportedModelError):
        loader.load_from_state_dict({"pre.0.weight": torch.rand(16, 3, 3, 3)})
