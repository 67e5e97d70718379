"""The operators that training runs on, and their gradients, against float64.

Set FAMKERN_CPU_ISA to run these on another instruction set; `test_every_instruction_set` does so for all of them.
"""

import os
import subprocess
import sys

import pytest
import torch

from famkern.ops import conv, gate, library

from ..stage_cases import OTHER_INSTRUCTION_SETS

pytestmark = pytest.mark.skipif(library.why_not_compiled() is not None, reason="no compiled kernels")

# one pixel, lines, less than a tile, tiles and one more, primes, more than one run of tiles, more than one task
SIZES = [(1, 1, 1), (2, 1, 19), (1, 23, 1), (3, 3, 2), (1, 4, 4), (2, 5, 9), (1, 13, 67), (5, 8, 70), (1, 71, 37)]


def random(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def convolution(batch, rows, width, channels):
    x = random(batch, rows, width, channels)
    return [x, random(channels, channels, 3, 3, seed=1, scale=(9 * channels) ** -0.5), random(channels, seed=2)]


def attention(batch, rows, width, channels):
    maps = [random(batch, rows, width, channels, seed=seed) for seed in (3, 4)]
    gates = torch.rand(batch, channels, generator=torch.Generator().manual_seed(5))
    weights = [random(channels // 8, channels, seed=6, scale=channels**-0.5), random(channels // 8, seed=7)]
    return [*maps, gates, *weights, random(1, channels // 8, seed=8), random(1, seed=9)]


def gradients(function, arguments, dtype, upstream):
    """Outputs and the gradients of their products with `upstream`."""
    arguments = [None if a is None else a.to(dtype).requires_grad_() for a in arguments]
    outputs = function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((o * u.to(dtype)).sum() for o, u in zip(outputs, upstream, strict=True) if u is not None)
    inputs = [a for a in arguments if a is not None]
    return [o.detach() for o in outputs], torch.autograd.grad(loss, inputs)


def assert_near(actual, expected, limit):
    """Maximum error within `limit` of the largest value."""
    for a, e in zip(actual, expected, strict=True):
        scale = e.abs().max().clamp_min(1.0)
        assert (a.double() - e).abs().max() <= limit * scale, f"{(a.double() - e).abs().max() / scale:.2e}"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("used", ["map", "mean", "both"])
def test_convolution_and_its_gradients(size, channels, residual, used):
    arguments = convolution(*size, channels)
    if residual:  # away from the rectifier's corner, where the derivative is a matter of rounding
        y = conv.reference(*(a.double() for a in arguments), residual=False)[0]
        arguments[2] = arguments[2] + 0.01 * (y.abs().amin(dim=(0, 1, 2)) < 1e-5)
    upstream = [random(*arguments[0].shape, seed=10), random(size[0], channels, seed=11)]
    upstream = [u if used in (name, "both") else None for name, u in zip(("map", "mean"), upstream, strict=True)]

    def run(function):
        return lambda *a: function(*a, residual=residual)

    outputs, grads = gradients(run(conv.conv3x3), arguments, torch.float32, upstream)
    expected, expected_grads = gradients(run(conv.reference), arguments, torch.float64, upstream)
    assert_near(outputs, expected, 1e-5)
    assert_near(grads, expected_grads, 1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("skip", [True, False])
def test_gate_and_its_gradients(size, channels, skip):
    arguments = attention(*size, channels)
    if not skip:
        arguments[0] = None
    upstream = [random(*size, channels, seed=10)]
    outputs, grads = gradients(gate.gate, arguments, torch.float32, upstream)
    expected, expected_grads = gradients(gate.reference, arguments, torch.float64, upstream)
    assert_near(outputs, expected, 1e-5)
    assert_near(grads, expected_grads, 1e-5)


def test_the_number_of_threads_leaves_the_bits():
    arguments, gated = convolution(2, 41, 50, 16), attention(2, 41, 50, 16)
    upstream = [random(2, 41, 50, 16, seed=10), random(2, 16, seed=11)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            outputs, grads = gradients(lambda *a: conv.conv3x3(*a, residual=True), arguments, torch.float32, upstream)
            more, more_grads = gradients(gate.gate, gated, torch.float32, upstream[:1])
            results.append([*outputs, *grads, *more, *more_grads])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_strided_maps_and_gradients():
    x, weight, bias = convolution(2, 9, 14, 16)
    strided = random(2, 16, 9, 14).permute(0, 2, 3, 1)
    expected = conv.conv3x3(strided.contiguous(), weight, bias)
    assert all(torch.equal(a, b) for a, b in zip(conv.conv3x3(strided, weight, bias), expected, strict=True))
    x.requires_grad_()
    conv.conv3x3(x, weight, bias)[0].sum().backward()  # the gradient of a sum has strides of 0
    (expected_gradient,) = torch.autograd.grad(conv.reference(x, weight, bias)[0].sum(), x)
    torch.testing.assert_close(x.grad, expected_gradient)


def test_only_what_is_wanted_is_computed():
    x, weight, bias = convolution(1, 9, 14, 16)
    weight.requires_grad_()
    conv.conv3x3(x, weight, bias)[0].sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_other_types_and_widths_run_on_pytorch():
    for channels, dtype in ((16, torch.float64), (48, torch.float32)):
        arguments = [a.to(dtype) for a in convolution(1, 5, 6, channels)]
        for a, e in zip(conv.conv3x3(*arguments), conv.reference(*arguments), strict=True):
            assert torch.equal(a, e)


def test_no_second_derivative():
    x, weight, bias = convolution(1, 5, 6, 16)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(conv.conv3x3(x, weight, bias)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("residual", [False, True])
def test_opcheck(residual):
    x, weight, bias = (a.requires_grad_() for a in convolution(2, 6, 9, 16))
    torch.library.opcheck(torch.ops.famkern.conv3x3.default, (x, weight, bias, residual))
    torch.library.opcheck(torch.ops.famkern.gate.default, tuple(a.requires_grad_() for a in attention(2, 6, 9, 16)))
    with torch.no_grad():
        y = x + 1 if residual else None
        torch.library.opcheck(torch.ops.famkern.conv3x3_backward.default, (x, None, x, y, weight, True))
        gated = attention(2, 6, 9, 16)
        torch.library.opcheck(torch.ops.famkern.gate_backward.default, tuple(gated))


def test_wrong_shapes_are_refused():
    x, weight, bias = convolution(1, 5, 6, 16)
    with pytest.raises(RuntimeError, match="weight"):
        torch.ops.famkern.conv3x3(x, weight[:8], bias, False)
    with pytest.raises(RuntimeError, match="bias"):
        torch.ops.famkern.conv3x3(x, weight, bias[:8], False)
    with pytest.raises(RuntimeError, match="gate"):
        torch.ops.famkern.gate(x, x, bias, *attention(1, 5, 6, 16)[3:])


@pytest.mark.parametrize("isa", OTHER_INSTRUCTION_SETS)
@pytest.mark.skipif("FAMKERN_CPU_ISA" in os.environ, reason="this is such a run")
def test_every_instruction_set(isa):
    names = "(convolution or gate) and (16 or 64) and (37 or 19 or 70) or threads"
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", names]
    run = subprocess.run(
        command, env=os.environ | {"FAMKERN_CPU_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
