"""The operators of reduced scale: reduce_picture, fit_affine, apply_affine.

`expected_*` are the definition, written with matrices and PyTorch's pooling in float64; docs/reduced-scale.md has it in
words. Set FAMKERN_CPU_ISA to run these on another instruction set.
"""

import pytest
import torch
import torch.nn.functional as F

from famkern.ops import apply_affine, fit_affine, library, reduce_picture, reduced

SIZES = [(1, 1), (1, 257), (257, 1), (3, 5), (7, 4), (37, 53), (61, 301)]
SCALES = [1, 2, 3, 8]
DTYPES = [torch.float32, torch.float64]
LIMIT = {torch.float32: 1e-6, torch.float64: 1e-12}
ROUTES = [
    pytest.param(
        "compiled", marks=pytest.mark.skipif(library.why_not_compiled() is not None, reason="no compiled kernels")
    ),
    "reference",
]


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    monkeypatch.setenv("FAMKERN_REFERENCE", "1" if request.param == "reference" else "0")
    return request.param


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def picture(height, width, kind, seed=0):
    values = random(height, width, 3, seed=seed)
    full = reduced.FULL_SCALE.get(kind)
    return (values * full).round().to(kind) if full else values.to(kind)


def unit(rows):
    return rows.double() / reduced.FULL_SCALE.get(rows.dtype, 1)


# ---- the definition --------------------------------------------------------------------------------------------------


def expected_reduced(image, k):
    def weights(length):
        centre = (torch.arange(-(-length // k), dtype=torch.float64) + 0.5) * k - 0.5
        w = (1 - (torch.arange(length, dtype=torch.float64) - centre[:, None]).abs() / k).clamp(min=0)
        return w / w.sum(1, keepdim=True)

    rows, columns = weights(image.shape[0]), weights(image.shape[1])
    return torch.einsum("iy,yxc,jx->ijc", rows, unit(image), columns).clamp(0, 1)


def expected_fit(image, target, weights=None):
    weights = torch.ones(image.shape[:2], dtype=torch.float64) if weights is None else weights.double()

    def mean(t):  # (h, w, 3)
        def box(t):
            return F.avg_pool2d(F.pad(t.permute(2, 0, 1)[None], (8,) * 4), 17, 1)[0].permute(1, 2, 0)

        total = box(weights[..., None])
        return torch.where(total > 0, box(weights[..., None] * t) / total, torch.nan)

    # Less their means, which leaves a as it is, and less to cancel.
    middle_x, middle_y = (t.double().mean((0, 1)) for t in (image, target))
    x, y = image.double() - middle_x, target.double() - middle_y
    a = (mean(x * y) - mean(x) * mean(y)) / (mean(x * x) - mean(x) ** 2 + 1e-4)
    b = (mean(y) + middle_y) - a * (mean(x) + middle_x)
    return mean(a.nan_to_num()).nan_to_num(1), mean(b.nan_to_num()).nan_to_num(0)


def expected_applied(image, a, b, k, strength=1.0):
    def along(t, dim, length):
        at = ((torch.arange(length, dtype=torch.float64) + 0.5) / k - 0.5).clamp(0, t.shape[dim] - 1)
        low = at.floor().long()
        share = (at - low).view((-1, 1, 1) if dim == 0 else (-1, 1))
        return torch.lerp(t.index_select(dim, low), t.index_select(dim, (low + 1).clamp(max=t.shape[dim] - 1)), share)

    height, width = image.shape[:2]
    a, b = (along(along(t.double(), 0, height), 1, width) for t in (a, b))
    x = unit(image)
    y = (a * x + b).clamp(0, 1)
    return (x + strength * (y - x)).clamp(0, 1)


# ---- calls -----------------------------------------------------------------------------------------------------------


def run_reduce(image, k, dtype, band=None):
    height, width = image.shape[:2]
    rows = -(-height // k)
    out = torch.full((rows, -(-width // k), 3), torch.nan, dtype=dtype)
    for start in range(0, rows, band or rows):
        stop = min(start + (band or rows), rows)
        first, end = max(start * k - k // 2, 0), min((stop + 1) * k, height)
        reduce_picture.reduce_picture(image[first:end], out[start:stop], scale=k, image_row=first, row=start)
    return out


def run_fit(image, target, weights=None, band=None):
    rows = image.shape[0]
    a, b = torch.full_like(image, torch.nan), torch.full_like(image, torch.nan)
    for start in range(0, rows, band or rows):
        stop = min(start + (band or rows), rows)
        first = max(start - reduced.HALO, 0)
        around = slice(first, stop + reduced.HALO)
        part = None if weights is None else weights[around]
        fit_affine.fit_affine(image[around], target[around], part, a[start:stop], b[start:stop], top=start - first)
    return a, b


def run_apply(image, a, b, k, strength=1.0, band=None, out=None):
    height = image.shape[0]
    out = torch.empty_like(image) if out is None else out
    for start in range(0, height, band or height):
        stop = min(start + (band or height), height)
        low, high = max((2 * start + 1 - k) // (2 * k), 0), (2 * stop - 1 - k) // (2 * k) + 2
        maps = [t[low:high].contiguous() for t in (a, b)]
        apply_affine.apply_affine(
            image[start:stop], *maps, out[start:stop], scale=k, strength=strength, row=start, map_row=low
        )
    return out


def error(actual, expected):
    return (actual.double() - expected).abs().max()


# ---- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("k", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equality_with_the_definition(route, size, k, dtype):
    image = picture(*size, dtype)
    low = run_reduce(image, k, dtype)
    assert error(low, expected_reduced(image, k)) < LIMIT[dtype]
    target = 0.6 * low + 0.3 * random(*low.shape, seed=1, dtype=dtype)
    maps = run_fit(low, target)
    for t, expected in zip(maps, expected_fit(low, target), strict=True):
        assert error(t, expected) < LIMIT[dtype]
    for strength in (1.0, 0.3, 1.8):
        assert error(run_apply(image, *maps, k, strength), expected_applied(image, *maps, k, strength)) < LIMIT[dtype]


@pytest.mark.parametrize("kind", reduced.DEPTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_picture(route, kind, dtype):
    image = picture(37, 53, kind)
    limit = LIMIT[torch.float32 if torch.float32 in (kind, dtype) else dtype]
    assert error(run_reduce(image, 3, dtype), expected_reduced(image, 3)) < limit
    a, b = (random(13, 18, 3, seed=seed, dtype=dtype) for seed in (1, 2))
    expected = expected_applied(image, a, b, 3)
    result = run_apply(image, a, b, 3)
    if kind in reduced.FULL_SCALE:
        expected = reduced.FULL_SCALE[kind] * expected
        assert (result.double() - expected).abs().max() <= 0.5 + 0.01
        assert (result.double() - expected.round()).abs().max() <= 1
    else:
        assert error(result, expected) < limit


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16], ids=str)
def test_integers_are_rounded_half_to_even(route, kind):
    """a = 1 and b half a step: every result lies between two integers."""
    full = reduced.FULL_SCALE[kind]
    image = torch.arange(256).to(kind).view(16, 16, 1).expand(16, 16, 3)
    a = torch.ones(8, 8, 3, dtype=torch.float64)
    result = run_apply(image, a, torch.full_like(a, 0.5 / full), 2)
    exact = (unit(image) + 0.5 / full).clamp(0, 1) * full
    assert torch.equal(result.double(), exact.round())


@pytest.mark.parametrize("kind", reduced.DEPTHS, ids=str)
@pytest.mark.parametrize("k", [2, 3])
def test_strides_do_not_matter(route, kind, k):
    image = picture(19, 23, kind)
    a, b = (random(-(-19 // k), -(-23 // k), 3, seed=seed, dtype=torch.float32) for seed in (1, 2))
    low, result = run_reduce(image, k, torch.float32), run_apply(image, a, b, k)
    planar = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    columns = image.transpose(0, 1).contiguous().transpose(0, 1)
    sparse = torch.stack([image, image], dim=-1)[..., 0]
    for view in (planar, columns, sparse):
        assert torch.equal(run_reduce(view, k, torch.float32), low)
        for like in (planar, columns, sparse, image):
            out = torch.empty_strided(like.shape, like.stride(), dtype=kind)
            assert torch.equal(run_apply(view, a, b, k, out=out), result)
    grey = image[..., :1].expand(19, 23, 3)
    assert torch.equal(run_reduce(grey, k, torch.float32), run_reduce(grey.contiguous(), k, torch.float32))


@pytest.mark.parametrize("k", SCALES)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_bands_and_threads_leave_the_bits(route, k, kind):
    image = picture(83, 157, kind)
    low = run_reduce(image, k, torch.float32)
    target, weights = random(*low.shape, seed=1, dtype=torch.float32), random(*low.shape[:2], seed=2).float()
    maps = run_fit(low, target, weights)
    expected = [low, *maps, *run_fit(low, target), run_apply(image, *maps, k)]
    before = torch.get_num_threads()
    try:
        for threads, band in ((1, 1), (3, 5), (2, 16), (5, 40)):
            torch.set_num_threads(threads)
            results = [run_reduce(image, k, torch.float32, band), *run_fit(low, target, weights, band)]
            results += [*run_fit(low, target, None, band), run_apply(image, *maps, k, band=band)]
            assert all(torch.equal(r, e) for r, e in zip(results, expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("kind", reduced.DEPTHS, ids=str)
def test_an_even_picture_stays_even(route, k, kind):
    image = picture(1, 1, kind).expand(29, 31, 3)
    low = run_reduce(image, k, torch.float64)
    assert error(low, unit(image)[: low.shape[0], : low.shape[1]]) < 1e-15


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_flat_window_keeps_the_mean_of_the_target(route, dtype):
    value = random(1, 1, 3, dtype=dtype)
    target = random(40, 50, 3, seed=1, dtype=dtype)
    a, _ = run_fit(value.expand(40, 50, 3).contiguous(), target)
    assert torch.equal(a, torch.zeros_like(a))
    even = torch.full_like(target, 0.3)
    a, b = run_fit(value.expand(40, 50, 3).contiguous(), even)
    assert torch.equal(a, torch.zeros_like(a))
    assert error(b, even.double()) <= (0 if dtype == torch.float32 else 1e-15)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pixels_of_no_weight_do_not_count(route, dtype):
    image, target = random(45, 70, 3, dtype=dtype), random(45, 70, 3, seed=1, dtype=dtype)
    weights = (random(45, 70, seed=2) > 0.4).to(dtype)
    weights[:, :40] = 0  # whole windows without any
    maps = run_fit(image, target, weights)
    for t, expected in zip(maps, expected_fit(image, target, weights), strict=True):
        assert error(t, expected) < LIMIT[dtype]
    assert torch.equal(maps[0][:, :20], torch.ones(45, 20, 3, dtype=dtype))
    assert torch.equal(maps[1][:, :20], torch.zeros(45, 20, 3, dtype=dtype))
    hidden = weights[..., None] == 0
    noise = random(45, 70, 3, seed=3, dtype=dtype)
    others = run_fit(torch.where(hidden, noise, image), torch.where(hidden, noise, target), weights)
    assert all(torch.equal(t, other) for t, other in zip(maps, others, strict=True))
    ones = run_fit(image, target, torch.ones(45, 70, dtype=dtype))
    assert all(error(t, o.double()) < 1e-12 for t, o in zip(ones, run_fit(image, target), strict=True))


def test_the_operators_are_well_behaved():
    """Schemas, fakes and dispatch."""
    image, low = picture(9, 11, torch.uint8), random(5, 6, 3, dtype=torch.float32)
    maps = torch.empty_like(low), torch.empty_like(low)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    operators = torch.ops.famkern
    torch.library.opcheck(operators.reduce_picture, (image, low.clone(), 2, 0, 0), test_utils=checks)
    torch.library.opcheck(operators.fit_affine, (low, low.flip(1), None, *maps, 0), test_utils=checks)
    torch.library.opcheck(operators.fit_affine, (low, low.flip(1), low[..., 0].clone(), *maps, 0), test_utils=checks)
    arguments = (image, low, low.flip(0), torch.empty_like(image), 2, 1.0, 0, 0)
    torch.library.opcheck(operators.apply_affine, arguments, test_utils=checks)


@pytest.mark.skipif(library.why_not_compiled() is not None, reason="no compiled kernels")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("reduce_picture", (torch.rand(8, 8, 3), torch.empty(4, 4, 3), 9, 0, 0)),
        ("reduce_picture", (torch.rand(8, 8, 3), torch.empty(4, 5, 3), 2, 0, 0)),
        ("reduce_picture", (torch.rand(8, 8, 3), torch.empty(4, 4, 3), 2, 0, 1)),  # below the last row
        ("reduce_picture", (torch.rand(8, 8, 3), torch.empty(4, 4, 3), 2, 1, 0)),  # above the first
        ("reduce_picture", (torch.rand(8, 8, 3).half(), torch.empty(4, 4, 3), 2, 0, 0)),
        ("fit_affine", (torch.rand(4, 4, 3), torch.rand(4, 5, 3), None, *torch.empty(2, 4, 4, 3), 0)),
        ("fit_affine", (torch.rand(4, 4, 3), torch.rand(4, 4, 3), None, *torch.empty(2, 4, 4, 3), 1)),
        ("fit_affine", (torch.rand(4, 4, 3), torch.rand(4, 4, 3), torch.ones(4), *torch.empty(2, 4, 4, 3), 0)),
        ("apply_affine", (torch.rand(8, 8, 3), *torch.rand(2, 4, 4, 3), torch.empty(8, 7, 3), 2, 1.0, 0, 0)),
        ("apply_affine", (torch.rand(8, 8, 3), *torch.rand(2, 3, 4, 3), torch.empty(8, 8, 3), 2, 1.0, 0, 0)),
        ("apply_affine", (torch.rand(8, 8, 3), *torch.rand(2, 4, 4, 3), torch.empty(8, 8, 3), 2, 1.0, 0, 1)),
        ("apply_affine", (torch.rand(8, 8, 3), *torch.rand(2, 4, 4, 3), torch.empty(8, 8, 3).byte(), 2, 1.0, 0, 0)),
    ],
)
def test_what_does_not_fit_is_refused(name, arguments):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops.famkern, name)(*arguments)
