"""The U-shaped family is what its definition says, on sides that are odd at any level too."""

import pytest
import torch
import torch.nn.functional as F

from famkern import models
from famkern.models import UStudent, WeightsError
from famkern.models.student import fold_norm, normalise

SIZES = [(1, 1), (3, 257), (1, 31), (29, 1), (37, 53), (8, 12)]
SHAPES = {
    "three levels": {"widths": (16, 32, 64), "blocks": (1, 2, 1, 1, 2)},
    "two levels": {"widths": (32, 16), "blocks": (1, 1, 2), "head": "plain"},
    "four levels": {"widths": (16, 16, 32, 32), "blocks": (1, 1, 1, 1, 1, 1, 1)},
}


def definition(tensors, x1, levels):
    """The network as its definition reads, step by step, from its tensors alone."""

    def conv(name, x, **options):
        weight = tensors[f"{name}.weight"]
        return F.conv2d(x, weight, tensors[f"{name}.bias"], **({"padding": weight.shape[-1] // 2} | options))

    def attention(name, x):
        return torch.sigmoid(conv(f"{name}.2", torch.relu(conv(f"{name}.0", x))))

    def group(name, x):
        y, block = x, 0
        while f"{name}.gp.{block}.conv1.weight" in tensors:
            at = f"{name}.gp.{block}"
            z = conv(f"{at}.conv2", torch.relu(conv(f"{at}.conv1", y)) + y)
            z = z * attention(f"{at}.calayer.ca", z.mean((2, 3), keepdim=True))
            y = z * attention(f"{at}.palayer.pa", z) + y
            block += 1
        return conv(f"{name}.gp.{block}", y) + x

    def down(name, x):
        batch, channels, height, width = x.shape
        filled = x.new_zeros(batch, channels, height + height % 2, width + width % 2)
        filled[:, :, :height, :width] = x
        return conv(name, filled, stride=2, padding=0)

    def up(name, x, height, width):
        y = conv(name, x)
        fine = y.new_empty(y.shape[0], y.shape[1] // 4, 2 * y.shape[2], 2 * y.shape[3])
        for r in range(2):
            for c in range(2):
                fine[:, :, r::2, c::2] = y[:, 2 * r + c :: 4]
        return fine[:, :, :height, :width]

    skips = [group("e1", conv("pre.0", x1))]
    for level in range(1, levels):
        skips.append(group(f"e{level + 1}", down(f"down{level}", skips[-1])))
    x = skips[-1]
    for level in range(levels - 1, 0, -1):
        skip = skips[level - 1]
        joined = torch.cat([up(f"up{level}", x, *skip.shape[2:]), skip], 1)
        x = group(f"d{level}", conv(f"fuse{level}", joined))
    o = conv("post.0", x)
    return o[:, :1] * x1 - o[:, 1:] + x1 if o.shape[1] == 4 else o + x1


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_u_student_is_the_definition(shape, size, dtype, bound):
    torch.manual_seed(0)
    network = UStudent(**SHAPES[shape]).to(dtype)
    image = normalise(torch.rand(2, 3, *size, dtype=dtype))
    with torch.inference_mode():
        expected = definition(network.state_dict(), image, network.levels)
        assert (network(image) - expected).abs().max() <= bound


def test_the_default_has_the_stated_size():
    assert sum(parameter.numel() for parameter in UStudent().parameters()) == 471_610


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"widths": (16,), "blocks": (1,)}, "widths"),
        ({"widths": (16, 24), "blocks": (1, 1, 1)}, "widths"),
        ({"blocks": (1, 2, 1)}, "5 counts"),
        ({"blocks": (1, 2, 0, 2, 1)}, "counts of 1 or more"),
        ({"head": "other"}, "head"),
        ({"norm": "layer"}, "norm"),
        ({"window": 48}, "multiple of 64"),
    ],
    ids=str,
)
def test_numbers_that_no_network_has(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        UStudent(**options)


def test_a_window_counts_in_pixels_of_the_picture():
    network = UStudent((16, 32), (1, 1, 1), window=64)
    assert network.e1.gp[0].calayer.window == 64
    assert network.e2.gp[0].calayer.window == 32
    image = normalise(torch.rand(1, 3, 96, 130))
    with torch.inference_mode():
        assert not torch.equal(network(image), UStudent.forward(_whole(network), image))


def _whole(network):
    other = UStudent(network.widths, network.blocks)
    other.load_state_dict(network.state_dict())
    other.window = None
    return other


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_needs_no_configuration_beside_it(tmp_path, shape):
    network = UStudent(**SHAPES[shape])
    torch.save(network.state_dict(), tmp_path / "u.pth")
    loaded = models.load(tmp_path / "u.pth")
    assert isinstance(loaded, UStudent)
    assert (loaded.widths, loaded.blocks, loaded.head) == (network.widths, network.blocks, network.head)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize("missing", ["up1.weight", "e2.gp.0.conv1.weight", "d1.gp.1.weight", "post.0.bias"])
def test_a_file_that_lacks_something_is_named(tmp_path, missing):
    tensors = UStudent().state_dict()
    del tensors[missing]
    torch.save(tensors, tmp_path / "u.pth")
    with pytest.raises(WeightsError, match=r"u\.pth"):
        models.load(tmp_path / "u.pth")


def test_folding_leaves_the_result():
    torch.manual_seed(0)
    network = UStudent((16, 32), (1, 1, 1), norm="batch").double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    network.eval()
    folded = UStudent((16, 32), (1, 1, 1)).double()
    folded.load_state_dict(fold_norm(network.state_dict()))
    image = normalise(torch.rand(1, 3, 21, 30, dtype=torch.float64))
    with torch.inference_mode():
        assert (network(image) - folded(image)).abs().max() < 1e-10
