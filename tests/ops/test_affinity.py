"""famkern.ops.affinity: the loss equals the paper's formula, wherever and however it is computed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from famkern.ops import affinity_l1, affinity_maps, library
from famkern.ops.affinity import FeatureAffinityLoss, affinity_matrix, feature_affinity_loss, reference

OPTIONS = [
    {"norm": norm, "normalize": normalize, "scale": scale}
    for norm, normalize, scale in itertools.product(("frobenius", "l1"), (False, True), ("paper", "rms"))
]
# images, teacher's channels, student's, pooled rows, columns, teacher_pool, student_pool, rows and columns left over
CASES = [
    (1, 3, 3, 4, 5, 8, 4, 0, 0),
    (1, 1, 1, 1, 1, 1, 1, 0, 0),
    (2, 5, 3, 1, 13, 3, 2, 1, 1),
    (3, 2, 7, 17, 1, 2, 5, 0, 3),
    (1, 3, 3, 2, 131, 4, 2, 3, 1),  # more columns than a tile has
    (2, 4, 9, 11, 7, 1, 16, 0, 15),
    (1, 33, 18, 5, 6, 2, 3, 1, 2),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

needs_compiled = pytest.mark.skipif(library.why_not_compiled() is not None, reason=str(library.why_not_compiled()))
needs_a_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="PyTorch's inductor needs a C++ compiler"
)
INDUCTOR = [pytest.mark.slow, needs_a_compiler]


def features(
    case: tuple[int, ...], dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> tuple[Tensor, Tensor, dict]:
    B, Ct, Cs, h, w, pt, ps, above, beside = case
    generator = torch.Generator().manual_seed(hash(case) % 2**31)
    teacher = torch.randn(B, Ct, h * pt + min(above, pt - 1), w * pt + min(beside, pt - 1), generator=generator)
    student = torch.randn(B, Cs, h * ps + min(beside, ps - 1), w * ps + min(above, ps - 1), generator=generator)
    pools = {"teacher_pool": pt, "student_pool": ps}
    return teacher.to(device, dtype), student.to(device, dtype), pools


def loss_and_gradients(function, teacher: Tensor, student: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    teacher, student = teacher.detach().requires_grad_(), student.detach().requires_grad_()
    loss = function(teacher, student, **options)
    return loss.detach(), *torch.autograd.grad(loss, (teacher, student))


def errors(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> list[float]:
    return [
        float((g.double() - w).norm() / w.norm()) if w.norm() > 0 else float(g.norm())
        for g, w in zip(got, wanted, strict=True)
    ]


def upcast(teacher: Tensor, student: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    return loss_and_gradients(reference, teacher.double(), student.double(), **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_paper_s_formula(case, options, device) -> None:
    teacher, student, pools = features(case, device=device)
    if case[1:3] == (1, 1) and options["normalize"]:
        teacher = -teacher.abs()  # one channel: cosines are +-1, all affinities are 1
    wanted = upcast(teacher, student, **pools, **options)
    got = loss_and_gradients(feature_affinity_loss, teacher, student, **pools, **options)
    assert [g.dtype for g in got] == [torch.float64] * 3
    assert max(errors(got, wanted)) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS[::2], ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("distance", [None, 1e-3, 1e-6])
def test_float32_is_right_to_1e_5_also_where_student_is_near_teacher(distance, options, device) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.rand(2, 3, 46, 62, generator=generator)
    teacher = F.interpolate(student, scale_factor=2) if distance else torch.rand(2, 3, 92, 124, generator=generator)
    if distance:
        student = student + distance * torch.randn(student.shape, generator=generator)
    teacher, student = teacher.to(device), student.to(device)
    wanted = upcast(teacher, student, **options)
    got = loss_and_gradients(feature_affinity_loss, teacher, student, **options)
    assert max(errors(got, wanted)) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtypes", [("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float16"), ("bfloat16", "float64")]
)
def test_half_precision_inputs_lose_nothing_but_the_rounding_of_their_gradients(dtypes, device) -> None:
    dtype_t, dtype_s = (getattr(torch, d) for d in dtypes)
    for case in CASES:
        teacher, student, pools = features(case, device=device)
        teacher, student = teacher.to(dtype_t), student.to(dtype_s)
        wanted = upcast(teacher, student, scale="rms", **pools)
        got = loss_and_gradients(feature_affinity_loss, teacher, student, scale="rms", **pools)
        assert got[0].dtype == (torch.float64 if torch.float64 in (dtype_t, dtype_s) else torch.float32)
        assert [g.dtype for g in got[1:]] == [dtype_t, dtype_s]
        assert errors(got[:1], wanted[:1])[0] < 1e-5
        for g, w in zip(got[1:], wanted[1:], strict=True):  # half a unit in the last place, also of subnormals
            unit = torch.finfo(g.dtype).eps / 2
            atol = unit * torch.finfo(g.dtype).smallest_normal + 1e-6 * float(w.abs().max())
            torch.testing.assert_close(g.double(), w, rtol=unit, atol=atol)


def test_every_half_precision_number_is_read_and_written_as_torch_does() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        maps, *_ = affinity_maps.affinity_maps(None, every.reshape(1, 1, 256, 256), gram=False)
        assert torch.equal(maps.flatten().nan_to_num(nan=12345.0), every.float().nan_to_num(nan=12345.0))
        # Neighbours, their middles (ties), and what lies just beside those.
        finite = every[every.isfinite()].double().sort().values
        middles = (finite[1:] + finite[:-1]) / 2
        values = torch.cat(
            [finite, middles, middles * (1 + 2**-20), middles * (1 - 2**-20), torch.tensor([1e30, -1e30])]
        )
        like = torch.empty(1, 1, 1, len(values), dtype=dtype)
        out = torch.ops.famkern.affinity_spread(values.reshape(1, 1, -1), None, like, 1)
        assert torch.equal(out.flatten(), values.float().to(dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["frobenius", "l1"])
def test_any_strides_give_the_same_bits(norm, device) -> None:
    teacher, student, _ = features((2, 3, 5, 6, 40, 8, 4, 3, 2), torch.float32, device)
    wanted = loss_and_gradients(feature_affinity_loss, teacher, student, norm=norm)

    def channels_last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    def sliced(x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        room = x.new_full((2 * B, C + 2, H + 1, 3 * W), float("nan"))
        room[::2, 1:-1, 1:, ::3] = x
        return room[::2, 1:-1, 1:, ::3]

    def transposed(x: Tensor) -> Tensor:
        return x.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1)

    for layout in (channels_last, sliced, transposed):
        got = loss_and_gradients(feature_affinity_loss, layout(teacher), layout(student), norm=norm)
        assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True)), layout.__name__
    gradient = loss_and_gradients(feature_affinity_loss, teacher, channels_last(student), norm=norm)[2]
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    expanded = student[:1, :1, :1].expand(2, 5, 26, -1)
    got = loss_and_gradients(feature_affinity_loss, teacher, expanded, norm=norm)
    wanted = loss_and_gradients(feature_affinity_loss, teacher, expanded.contiguous(), norm=norm)
    assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_equal_maps_give_exactly_zero_and_no_gradient(options, device) -> None:
    features = torch.rand(2, 3, 21, 30, device=device)
    for dtype in (torch.float32, torch.float16, torch.float64):
        x = features.to(dtype)
        got = loss_and_gradients(feature_affinity_loss, x, x, teacher_pool=4, student_pool=4, **options)
        assert [float(g.abs().max()) for g in got] == [0, 0, 0]
    zero = torch.zeros_like(features)
    got = loss_and_gradients(feature_affinity_loss, zero, zero, teacher_pool=4, student_pool=4, **options)
    assert [float(g.abs().max()) for g in got] == [0, 0, 0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("C", [2, 3, 16])
def test_rotated_channels_have_the_same_affinities(C, device) -> None:
    generator = torch.Generator().manual_seed(C)
    teacher = torch.randn(2, C, 92, 124, generator=generator).to(device)
    size = float(torch.linalg.vector_norm(affinity_matrix(teacher, pool=8)))
    pools = {"teacher_pool": 8, "student_pool": 8}

    order = torch.randperm(C, generator=generator)
    loss, *gradients = loss_and_gradients(feature_affinity_loss, teacher, teacher[:, order], scale="rms", **pools)
    assert float(loss) == 0 if device == "cpu" else float(loss) < 1e-7 * size
    assert all(g.isfinite().all() for g in gradients)

    rotation = torch.linalg.qr(torch.randn(C, C, generator=generator, dtype=torch.float64)).Q
    student = torch.einsum("ij,bjyx->biyx", rotation.to(device), teacher.double())
    loss, *gradients = loss_and_gradients(feature_affinity_loss, teacher.double(), student, scale="rms", **pools)
    assert float(loss) == 0
    assert all((g == 0).all() for g in gradients)
    loss, *gradients = loss_and_gradients(feature_affinity_loss, teacher, student.float(), scale="rms", **pools)
    assert float(loss) < 1e-6 * size
    assert all(g.isfinite().all() for g in gradients)


def test_nan_and_infinity_reach_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    for norm, bad, _ in itertools.product(("frobenius", "l1"), ("nan", "inf", "-inf"), range(20)):
        teacher, student = (torch.randn(1, 3, side, side, generator=generator) for side in (16, 8))
        (student if torch.rand((), generator=generator) < 0.5 else teacher)[0, 1, 2, 3] = float(bad)
        assert not feature_affinity_loss(teacher, student, norm=norm).isfinite()
        plain = affinity_maps._maps(teacher, student, 8, 4, False, True)[3]
        assert not plain.isfinite().any()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_gradcheck(options) -> None:
    teacher, student, pools = features((2, 3, 2, 2, 3, 3, 2, 1, 1))
    teacher.requires_grad_(), student.requires_grad_()
    assert torch.autograd.gradcheck(lambda t, s: feature_affinity_loss(t, s, **pools, **options), (teacher, student))
    assert torch.autograd.gradcheck(lambda s: affinity_matrix(s, pool=2, normalize=options["normalize"]), student)


@pytest.mark.parametrize("norm", ["frobenius", "l1"])
def test_a_second_derivative_is_refused(norm) -> None:
    teacher, student, pools = features(CASES[2])
    student.requires_grad_()
    loss = feature_affinity_loss(teacher, student, norm=norm, **pools)
    (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


def test_no_gradient_is_computed_that_nobody_wants(monkeypatch) -> None:
    teacher, student, pools = features(CASES[0])
    student.requires_grad_()
    calls = []
    spread = torch.ops.famkern.affinity_spread
    monkeypatch.setattr(torch.ops.famkern, "affinity_spread", lambda *a: calls.append(a[2].shape) or spread(*a))
    feature_affinity_loss(teacher, student, **pools).backward()
    assert calls == [student.shape]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_opcheck(dtype) -> None:
    teacher, student, pools = features(CASES[2], dtype)
    ops = torch.ops.famkern
    for t in (teacher, None):
        for normalize in (False, True):
            arguments = (t, student.clone().requires_grad_(), pools["teacher_pool"], pools["student_pool"], normalize)
            torch.library.opcheck(ops.affinity_maps.default, (*arguments, t is not None))
    maps, *_ = affinity_maps.affinity_maps(teacher, student, **pools)
    coefficients = torch.randn(2, 3, maps.shape[1], dtype=torch.float64)
    first_order = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(ops.affinity_spread.default, (maps, coefficients, student, pools["student_pool"]))
    torch.library.opcheck(ops.affinity_l1.default, (maps.requires_grad_(),), test_utils=first_order)
    torch.library.opcheck(ops.affinity_l1_backward.default, (maps.detach(), torch.rand(2, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("norm", "backend"),
    [
        ("frobenius", "aot_eager"),
        ("l1", "aot_eager"),
        pytest.param("frobenius", "inductor", marks=[pytest.mark.slow, needs_a_compiler]),
    ],
)
def test_it_compiles_as_one_graph(norm, backend) -> None:
    teacher, student, _ = features((1, 3, 3, 4, 5, 8, 4, 0, 0), torch.float32)
    module = FeatureAffinityLoss(norm=norm)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    got = loss_and_gradients(compiled, teacher, student)
    assert max(errors(got, loss_and_gradients(module, teacher, student))) < 1e-6


def test_the_matrix_compiles_as_one_graph() -> None:
    features = torch.rand(2, 3, 16, 24)
    compiled = torch.compile(lambda f: affinity_matrix(f, pool=4), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features), affinity_matrix(features, pool=4))


def test_autocast_does_not_change_the_precision() -> None:
    teacher, student = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 16, 24)
    for function in (
        lambda: affinity_matrix(student, pool=4),
        lambda: feature_affinity_loss(teacher, student),
        lambda: feature_affinity_loss(teacher, student, norm="l1"),
    ):
        expected = function()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(function(), expected)


@needs_compiled
@pytest.mark.parametrize("norm", ["frobenius", "l1"])
@pytest.mark.parametrize("shape", [(1, 3, 230, 310), (2, 70, 40, 52), (3, 5, 300, 4)])
def test_any_number_of_threads_gives_the_same_bits(shape, norm) -> None:
    generator = torch.Generator().manual_seed(1)
    B, C, H, W = shape
    student = torch.rand(shape, generator=generator)
    teacher = torch.rand(B, C, 2 * H, 2 * W, generator=generator)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(loss_and_gradients(feature_affinity_loss, teacher, student, norm=norm))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


BITS = """
import torch, hashlib, sys
from famkern.ops import affinity, library
generator = torch.Generator().manual_seed(1)
digest = hashlib.sha256()
cases = [("float32", "frobenius", 3), ("float16", "frobenius", 5), ("bfloat16", "l1", 3), ("float64", "l1", 9)]
for dtype, norm, C in cases:
    student = torch.randn(2, C, 61, 90, generator=generator).to(getattr(torch, dtype)).requires_grad_()
    teacher = torch.randn(2, 4, 125, 180, generator=generator)
    loss = affinity.feature_affinity_loss(teacher, student, norm=norm, scale="rms")
    loss.backward()
    digest.update(repr(loss.item()).encode() + student.grad.double().numpy().tobytes())
print(library.instruction_set(), digest.hexdigest())
"""


def run_with(isa: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FAMKERN_CPU_ISA": isa}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@needs_compiled
def test_every_instruction_set_gives_the_same_bits() -> None:
    available = ["portable", "avx2", "avx512"]
    available = available[: available.index(run_with("", BITS).stdout.split()[0]) + 1]
    answers = [run_with(isa, BITS).stdout.split() for isa in available]
    assert [isa for isa, _ in answers] == available
    assert len({digest for _, digest in answers}) == 1


@needs_compiled
def test_an_unknown_instruction_set_is_an_error_that_names_the_known_ones() -> None:
    for code in (BITS, "from famkern.ops import library; library.instruction_set()"):
        result = run_with("sse9", code)
        assert result.returncode != 0
        assert "FAMKERN_CPU_ISA=sse9 is not available here; accepted: portable" in result.stderr


def test_without_compiled_kernels_the_log_says_so_once_and_the_result_is_the_same() -> None:
    code = """
import torch
from famkern.ops import affinity, affinity_l1, library
torch.manual_seed(0)
student = torch.rand(1, 3, 13, 17, requires_grad=True)
loss = affinity.feature_affinity_loss(torch.rand(1, 3, 29, 33), student)
loss.backward()
print(library.instruction_set(), loss.item(), student.grad.norm().item())
"""
    plain, compiled = run_with("none", code), run_with("", code)
    assert plain.stderr.splitlines() == [
        "running without compiled CPU kernels, slower: FAMKERN_CPU_ISA=none leaves them out"
    ]
    isa, *values = plain.stdout.split()
    assert isa == "none"
    assert [float(v) for v in values] == pytest.approx([float(v) for v in compiled.stdout.split()[1:]], rel=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_implementation_for_any_device_equals_the_compiled_one(case, normalize) -> None:
    teacher, student, pools = features(case)
    for arguments in ((teacher, True), (None, False)):
        inputs = (arguments[0], student, *pools.values(), normalize, arguments[1])
        plain, compiled = affinity_maps._maps(*inputs), torch.ops.famkern.affinity_maps(*inputs)
        assert [p.shape for p in plain] == [c.shape for c in compiled]
        for p, c in zip(plain, compiled, strict=True):
            torch.testing.assert_close(p, c, rtol=1e-12, atol=1e-12)
    maps = torch.ops.famkern.affinity_maps(teacher, student, *pools.values(), normalize, True)[0]
    coefficients = torch.randn(len(student), student.shape[1], maps.shape[1], dtype=torch.float64)
    for inputs in ((maps, coefficients), (maps[:, : student.shape[1]], None)):
        plain = affinity_maps._spread(*inputs, student, pools["student_pool"])
        compiled = torch.ops.famkern.affinity_spread(*inputs, student, pools["student_pool"])
        torch.testing.assert_close(plain, compiled, rtol=1e-12, atol=1e-12)
    if not normalize:  # unit vectors: the signs on the diagonal are those of rounding
        scale = torch.rand(len(maps), dtype=torch.float64)
        torch.testing.assert_close(affinity_l1._l1(maps), torch.ops.famkern.affinity_l1(maps))
        plain, compiled = affinity_l1._l1_backward(maps, scale), torch.ops.famkern.affinity_l1_backward(maps, scale)
        torch.testing.assert_close(plain, compiled)


MEMORY = """
import ctypes, torch
from famkern.ops.affinity import feature_affinity_loss
torch.set_num_threads(2)

def status(key):
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(key)))

def extra(H, W):
    teacher, student = torch.rand(1, 3, 2 * H, 2 * W), torch.rand(1, 3, H, W, requires_grad=True)
    gradient_bytes = student.numel() * 4
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else freed memory is used again without being seen
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = status("VmRSS")
    feature_affinity_loss(teacher, student).backward()
    return status("VmHWM") - before - gradient_bytes

extra(120, 200)  # code pages, thread pool
print(extra(460, 620), extra(1080, 1920))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@needs_compiled
def test_memory_beyond_the_gradient_is_under_1_mib_at_460_x_620() -> None:
    small, large = map(int, run_with("", MEMORY).stdout.split())
    assert small < 2**20
    assert large < 2**20 * (1080 * 1920) / (460 * 620)  # linear in the pixels; one N x N matrix would be 67 GB


@pytest.mark.parametrize("normalize", [False, True])
def test_the_matrix(normalize) -> None:
    x = torch.randn(2, 3, 11, 9)
    positions = F.avg_pool2d(x.double(), 2).flatten(2)
    positions = F.normalize(positions, dim=1) if normalize else positions
    got = affinity_matrix(x, pool=2, normalize=normalize)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), positions.mT @ positions, rtol=1e-5, atol=1e-6)


def test_a_matrix_beyond_memory_is_refused_with_its_bytes() -> None:
    x = torch.zeros(1, 1, 1, 1).expand(2, 3, 4000, 4000)
    with pytest.raises(MemoryError, match=rf"2 x 16000000 x 16000000 entries need {2 * 16000000**2 * 4} bytes"):
        affinity_matrix(x)


def maps_of(*shape: int, **options) -> Tensor:
    return torch.zeros(shape, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (maps_of(1, 3, 16, 16), maps_of(1, 3, 12, 8)),
            ValueError,
            "pooled grids differ: .* gives 2 x 2, .* gives 3 x 2",
        ),
        ((maps_of(1, 3, 16, 16), maps_of(2, 3, 8, 8)), ValueError, "teacher has 1 images and student 2"),
        ((maps_of(16, 16), maps_of(1, 3, 8, 8)), ValueError, r"teacher has shape \(16, 16\); \[B, C, H, W\]"),
        ((maps_of(1, 16, 3), maps_of(1, 3, 8, 8)), ValueError, "are not pooled: teacher_pool=None is accepted"),
        ((maps_of(1, 3, 16, 16), maps_of(1, 3, 3, 8)), ValueError, "student_pool = 4 are accepted"),
        ((maps_of(0, 3, 16, 16), maps_of(0, 3, 8, 8)), ValueError, "none of them 0"),
        ((maps_of(1, 3, 16, 16), maps_of(1, 3, 8, 8, dtype=torch.int32)), TypeError, "student is torch.int32; float32"),
        (
            (maps_of(1, 3, 16, 16), maps_of(1, 3, 8, 8, device="meta")),
            ValueError,
            "teacher is on cpu and student on meta",
        ),
        ((1.0, maps_of(1, 3, 8, 8)), TypeError, "teacher is a float"),
        (
            ([maps_of(1, 3, 8, 8)], maps_of(1, 3, 8, 8)),
            ValueError,
            "teacher has 1 layers and student one; two sequences",
        ),
        (([], []), ValueError, "teacher has 0 layers and student 0"),
        (([[1.0]], [maps_of(1, 3, 8, 8)]), TypeError, "teacher is a list"),
    ],
)
def test_what_is_not_accepted_is_named(arguments, error, message) -> None:
    with pytest.raises(error, match=message) as raised:
        feature_affinity_loss(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "mean"}, "scale is 'mean'; 'paper' and 'rms'"),
        ({"norm": "l2"}, "norm is 'l2'; 'frobenius' and 'l1'"),
        ({"teacher_pool": 0}, "teacher_pool is 0; a whole number >= 1"),
        ({"student_pool": 2.0}, "student_pool is 2.0; a whole number >= 1"),
        ({"student_pool": (2, 0)}, r"student_pool is \(2, 0\); a whole number >= 1, a pair"),
        ({"student_pool": (2, 2, 2)}, "a whole number >= 1, a pair"),
    ],
)
def test_options_that_are_not_accepted_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureAffinityLoss(**options)
    with pytest.raises(ValueError, match=message):
        feature_affinity_loss(maps_of(1, 3, 16, 16), maps_of(1, 3, 8, 8), **options)


@needs_compiled
def test_the_operators_themselves_refuse_what_would_read_beyond_memory() -> None:
    ops, x = torch.ops.famkern, torch.zeros(1, 3, 8, 8)
    maps = torch.zeros(1, 3, 4)
    for call in (
        lambda: ops.affinity_maps(torch.zeros(1, 3, 8, 12), x, 4, 4, False, True),
        lambda: ops.affinity_maps(torch.zeros(2, 3, 8, 8), x, 4, 4, False, True),
        lambda: ops.affinity_maps(None, x, 4, 0, False, False),
        lambda: ops.affinity_maps(None, x, 4, 4, False, True),
        lambda: ops.affinity_maps(None, x.int(), 4, 4, False, False),
        lambda: ops.affinity_spread(maps, None, torch.zeros(1, 2, 8, 8), 4),
        lambda: ops.affinity_spread(maps, None, torch.zeros(1, 3, 8, 12), 4),
        lambda: ops.affinity_spread(maps, torch.zeros(1, 3, 2, dtype=torch.float64), x, 4),
        lambda: ops.affinity_l1(maps),
        lambda: ops.affinity_l1(torch.zeros(1, 4, 4, dtype=torch.float16)),
        lambda: ops.affinity_l1_backward(torch.zeros(1, 4, 4), torch.zeros(2, dtype=torch.float64)),
    ):
        with pytest.raises(RuntimeError, match=r"expected|must"):
            call()


def test_a_gpu_whose_kernels_are_not_used_takes_what_runs_anywhere_and_the_log_says_why(monkeypatch, caplog) -> None:
    run = affinity_maps.on_gpu(lambda *_: "plain", lambda *_: "kernels")
    monkeypatch.setattr(affinity_maps.gpu, "why_not", lambda _: None)
    assert run(None, torch.zeros(1)) == "kernels"
    assert not caplog.text
    monkeypatch.setattr(affinity_maps.gpu, "why_not", lambda _: "they fail")
    affinity_maps.library.announce.cache_clear()
    assert run(None, torch.zeros(1)) == "plain"
    assert "slower: they fail" in caplog.text


def test_importing_the_operators_does_not_import_triton() -> None:
    code = "import sys, famkern.ops.affinity; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_module_is_the_function() -> None:
    teacher, student, pools = features(CASES[2])
    module = FeatureAffinityLoss(**pools, scale="rms", normalize=True)
    assert torch.equal(module(teacher, student), feature_affinity_loss(teacher, student, **module.options))
    assert "scale='rms'" in repr(module)
