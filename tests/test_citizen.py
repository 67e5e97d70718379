"""famkern as a part of other people's PyTorch programs."""

import copy
import io
import pickle
import subprocess
import sys
import textwrap
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations, prune

import famkern
from famkern import models, threads
from famkern.models import Student, Teacher, UStudent
from famkern.ops.conv import conv3x3
from famkern.ops.gate import gate
from famkern.training.fused import fused

SMALL = {"channels": 16, "groups": 2, "blocks": 1}


@pytest.fixture(scope="module")
def student():
    return Student(**SMALL).eval()


@pytest.fixture(scope="module")
def picture():
    return torch.rand(3, 37, 51)


class Pictures(torch.utils.data.Dataset):
    """Dehazes where it is asked for a picture."""

    def __init__(self, dehazer):
        self.dehazer = dehazer

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.dehazer(torch.full((3, 20, 30), (index + 1) / 4))


# ---- copies and processes --------------------------------------------------------------------------------------------


def saved_and_loaded(dehazer):
    file = io.BytesIO()
    torch.save(dehazer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, saved_and_loaded, lambda d: pickle.loads(pickle.dumps(d))]
)
@pytest.mark.parametrize("used", [False, True])
def test_a_dehazer_is_copied_and_pickled(student, picture, copied, used):
    dehazer = famkern.Dehazer(student, strength=0.7, threads=1, memory="512MiB", window=32)
    expected = famkern.Dehazer(student, strength=0.7, window=32)(picture)
    if used:
        dehazer(picture)
    other = copied(dehazer)
    assert torch.equal(other(picture), expected)
    assert repr(other) == repr(dehazer)
    assert torch.equal(dehazer(picture), expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dehazer_works_in_the_processes_of_a_data_loader(student, method):
    data = Pictures(famkern.Dehazer(student, threads=1))
    expected = [data[index] for index in range(2)]
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=method)
    for found, wanted in zip(loader, expected, strict=True):
        assert torch.equal(found, wanted)


def test_the_losses_are_pickled():
    loss = pickle.loads(pickle.dumps(famkern.FeatureAffinityLoss(normalize=True)))
    assert loss.options["normalize"] is True


# ---- settings of the process -----------------------------------------------------------------------------------------


@pytest.fixture
def default_dtype():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("window", [None, 32])
def test_results_do_not_depend_on_the_default_dtype(student, picture, default_dtype, dtype, window):
    expected = famkern.Dehazer("student", window=window)(picture)
    default_dtype(dtype)
    assert torch.equal(famkern.Dehazer("student", window=window)(picture), expected)
    for name in models.available():
        assert {t.dtype for t in models.load(name).state_dict().values() if t.is_floating_point()} == {torch.float32}


def test_a_windowed_network_does_not_depend_on_the_default_dtype(default_dtype):
    network, image = UStudent((16, 16), (1, 1, 1), window=32).eval(), torch.rand(1, 3, 70, 90)
    expected = network(image)
    default_dtype(torch.bfloat16)
    assert torch.equal(network(image), expected)


def test_results_do_not_depend_on_the_default_device(student, picture):
    array = (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    expected = famkern.dehaze(array)
    loss = famkern.feature_affinity_loss(picture[None], picture[None] ** 2, teacher_pool=4, student_pool=4, scale="rms")
    with torch.device("meta"):
        assert np.array_equal(famkern.dehaze(array), expected)
        assert np.array_equal(famkern.dehaze(array, memory=famkern.Dehazer().least_memory(*array.shape[:2])), expected)
        for name in models.available():
            assert {str(t.device) for t in models.load(name).state_dict().values()} == {"cpu"}
        again = famkern.feature_affinity_loss(
            picture[None], picture[None] ** 2, teacher_pool=4, student_pool=4, scale="rms"
        )
    assert torch.equal(loss, again)


def test_threads_of_several_callers_leave_the_process_as_it_was(student, picture):
    before = torch.get_num_threads()
    expected = famkern.Dehazer(student)(picture)
    start, wrong, seen = threading.Barrier(4), [], []

    def call(count):
        dehazer = famkern.Dehazer(student, threads=count)
        start.wait()
        for _ in range(5):
            if not torch.equal(
                dehazer(picture, progress=lambda _: seen.append((count, torch.get_num_threads()))), expected
            ):
                wrong.append(count)

    callers = [threading.Thread(target=call, args=(count,)) for count in (1, 2, 3, None)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    assert {used for count, used in seen if count == 1} == {1}
    assert {used for count, used in seen if count == 3} == {3}
    assert torch.get_num_threads() == before
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [before]


@pytest.mark.parametrize("count", [3, None])
def test_a_number_of_threads_is_kept_by_one_that_has_not_computed_yet(count):
    before, entered, changed, found = torch.get_num_threads(), threading.Event(), threading.Event(), []

    def first():
        with threads.use(count):
            entered.set()
            changed.wait()
            found.append(torch.get_num_threads())

    def second():
        entered.wait()
        with threads.use(5):
            changed.set()
            caller.join()

    caller, other = threading.Thread(target=first), threading.Thread(target=second)
    for thread in (caller, other):
        thread.start()
    for thread in (caller, other):
        thread.join()
    assert found == [count or before]


@pytest.mark.slow
def test_a_call_stays_out_of_a_compiled_function():
    code = """
        import numpy as np, torch, famkern
        dehazer = famkern.Dehazer(famkern.models.Student(16, 1, 1), threads=1)

        def brighten(image):
            return dehazer(image * 0.5) + 1

        image = torch.rand(3, 20, 30)
        expected = brighten(image)
        for backend in ("eager", "aot_eager"):
            torch._dynamo.reset()
            compiled = torch.compile(brighten, backend=backend)
            assert torch.equal(compiled(image), expected)
            assert torch.equal(compiled(image), expected)

        dehazer = famkern.Dehazer(famkern.models.Student(16, 1, 1), threads=1, scale=2)
        hazy = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8).numpy()
        clear = dehazer(hazy)
        for function, expected in (
            (lambda hazy: dehazer.frame(hazy)[0], clear),
            (lambda hazy: dehazer.transmission(hazy, clear), dehazer.transmission(hazy, clear)),
            (lambda hazy: dehazer.stream(hazy, sink := np.empty_like(hazy)) or sink, clear),
            (lambda hazy: famkern.dehaze(hazy), famkern.dehaze(hazy)),
        ):
            assert np.array_equal(torch.compile(function, backend="eager")(hazy), expected)
    """
    python = [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(code)]
    result = subprocess.run(python, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "WON'T CONVERT" not in result.stderr


@pytest.mark.filterwarnings("ignore:.*jit.trace.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracers_are_told_to_export(student, picture):
    class Around(nn.Module):
        def forward(self, image):
            return dehazer(image) + 1

    dehazer = famkern.Dehazer(student)
    for trace in (torch.jit.trace, lambda module, image: torch.export.export(module, (image,))):
        with pytest.raises(RuntimeError, match="famkern export"):
            trace(Around(), picture)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_numpy_s_numbers_are_numbers(student, picture):
    expected = famkern.Dehazer(student, strength=0.5, threads=1, memory=1 << 30, window=32)(picture)
    dehazer = famkern.Dehazer(
        student, strength=np.float32(0.5), threads=np.int64(1), memory=np.uint64(1 << 30), window=np.int32(32)
    )
    assert torch.equal(dehazer(picture), expected)
    assert Student(np.int64(16), np.int32(1), np.uint8(1)).channels == 16
    maps = torch.rand(1, 3, 16, 16), torch.rand(1, 2, 16, 16)
    pools = {"teacher_pool": np.int64(4), "student_pool": np.int32(4)}
    ours = famkern.feature_affinity_loss(*maps, **pools)
    assert torch.equal(ours, famkern.feature_affinity_loss(*maps, teacher_pool=4, student_pool=4))
    assert famkern.affinity_matrix(maps[0], pool=np.int64(4)).shape == (1, 16, 16)


def test_sizes_are_numpy_s_numbers_too(student):
    dehazer = famkern.Dehazer(student)
    assert dehazer.least_memory(*np.uint16([300, 400])) == dehazer.least_memory(300, 400)
    assert dehazer.scale_of(*np.uint8([200, 255])) == 1
    assert type(UStudent(np.int64([16, 32]), np.int64([1, 1, 1])).widths[0]) is int
    for wrong in (0, True, 2.5, None):
        with pytest.raises(ValueError, match="height and width"):
            dehazer.least_memory(300, wrong)


@pytest.mark.parametrize("name", ["strength", "threads", "memory", "window", "scale"])
@pytest.mark.parametrize("value", [True, np.True_, False])
def test_true_is_no_number(student, name, value):
    with pytest.raises((ValueError, TypeError), match=name if name != "memory" else "memory bound"):
        famkern.Dehazer(student, **{name: value})


def test_true_is_no_count_of_networks_and_no_pool():
    for network in (lambda: Student(16, True, 1), lambda: UStudent(blocks=(1, True, 1, 1, 1)), lambda: Teacher(True)):
        with pytest.raises(ValueError, match="takes"):
            network()
    with pytest.raises(ValueError, match="whole number"):
        famkern.affinity_matrix(torch.rand(1, 3, 8, 8), pool=True)


# ---- networks that are not what they seem ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_among_the_weights_is_named(value):
    network = Student(**SMALL)
    network.g2.gp[0].conv1.weight.data[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"NaN or infinity in g2\.gp\.0\.conv1\.weight"):
        famkern.Dehazer(network)


class Brighter(Student):
    def forward(self, image):
        return super().forward(image) + 1


class Called(Student):
    def __call__(self, image):
        return super().__call__(image) + 1


class Named(Student):
    def name(self):
        return "still a student"


def changed(change):
    network = Student(**SMALL)
    change(network)
    return network


def swapped(network):
    network.g1.gp[0].palayer.pa[1] = nn.SiLU()


def circular(network):
    network.pre[0].padding_mode = "circular"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Brighter(**SMALL), r"is a .*Brighter, where its family has Student"),
        (changed(swapped), r"SiLU as its g1\.gp\.0\.palayer\.pa\.1"),
        (changed(circular), "circular"),
        (Called(**SMALL), r"is a .*Called, where its family has Student"),
        (
            changed(lambda n: setattr(n, "forward", torch.neg)),
            "another forward in its place, where its family has Student",
        ),
        (changed(lambda n: setattr(n.g1, "forward", torch.neg)), "another forward in its place as its g1"),
        (changed(lambda n: setattr(n.pre[0], "weight", nn.Parameter(torch.rand(16, 3, 5, 5)))), r"pre\.0\.weight has"),
        (Student(**SMALL).to("meta"), r"pre\.0\.weight is on PyTorch's meta device"),
        (changed(lambda n: setattr(n.pre[0], "bias", nn.Parameter(torch.rand(16) + 0j))), r"pre\.0\.bias .*complex64"),
        (changed(lambda n: prune.random_unstructured(n.pre[0], "weight", 0.5)), r"pre\.0\.weight_orig"),
        (changed(lambda n: parametrizations.weight_norm(n.post[0])), r"post\.0\.parametrizations"),
        (changed(lambda n: nn.utils.weight_norm(n.pre[0])), r"pre\.0\.weight_g"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_network_that_computes_something_else_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        famkern.Dehazer(network)


def test_training_operators_refuse_it_too():
    with pytest.raises(ValueError, match="Brighter, where its family has Student"):
        fused(Brighter(**SMALL))
    with pytest.raises(ValueError, match="weight_orig"):
        fused(changed(lambda n: prune.random_unstructured(n.pre[0], "weight", 0.5)))


def test_a_network_that_computes_the_same_is_taken(student, picture):
    named = Named(**SMALL)
    named.load_state_dict(student.state_dict())
    assert torch.equal(famkern.Dehazer(named)(picture), famkern.Dehazer(student)(picture))
    pruned = changed(lambda n: prune.random_unstructured(n.pre[0], "weight", 0.5))
    prune.remove(pruned.pre[0], "weight")
    famkern.Dehazer(pruned)
    normed = Student(**SMALL, norm="batch")
    for module in normed.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    famkern.Dehazer(nn.SyncBatchNorm.convert_sync_batchnorm(normed))


# ---- the window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [lambda window: Student(**SMALL, window=window), lambda window: UStudent(window=window)]
)
def test_a_window_travels_with_the_state_dict(family, tmp_path):
    windowed, plain = family(64), family(None)
    assert "window" not in plain.state_dict()
    plain.load_state_dict(windowed.state_dict())
    assert plain.window == 64
    torch.save(windowed.state_dict(), tmp_path / "windowed.pth")
    assert models.load(tmp_path / "windowed.pth").window == 64
    outer = nn.ModuleDict({"net": family(None)})
    outer.load_state_dict(nn.ModuleDict({"net": windowed}).state_dict())
    assert outer["net"].window == 64
    assert copy.deepcopy(windowed).window == pickle.loads(pickle.dumps(windowed)).window == 64


def test_a_checkpoint_without_a_window_loads_and_changes_none(student):
    windowed = Student(**SMALL, window=64)
    windowed.load_state_dict(OrderedDict(student.state_dict()))
    assert windowed.window == 64


def test_a_window_that_is_none_is_refused_in_a_line(student, tmp_path):
    torch.save({**student.state_dict(), "window": torch.tensor(40)}, tmp_path / "a.pth")
    torch.save({**student.state_dict(), "window": torch.tensor([1.5, 2])}, tmp_path / "b.pth")
    for name, message in (("a", "multiple of 16"), ("b", "not a whole number")):
        with pytest.raises(models.WeightsError, match=message):
            models.load(tmp_path / f"{name}.pth")


# ---- what is no picture ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 8, 8).to_sparse(), "sparse_coo"),
        (torch.rand(3, 8, 8, device="meta"), "meta"),
        (torch.rand(3, 8, 8).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (np.ma.masked_array(np.zeros((8, 8, 3), np.uint8), True), "mask: .*valid="),
    ],
)
def test_what_has_no_pixels_is_refused_by_name(student, image, message):
    with pytest.raises(TypeError, match=message):
        famkern.Dehazer(student)(image)


def test_a_view_with_its_sign_pending_is_what_it_shows(student, picture):
    dehazer = famkern.Dehazer(student)
    assert torch.equal(dehazer(torch._neg_view(-picture)), dehazer(picture))


# ---- more kinds of pictures ------------------------------------------------------------------------------------------


def test_a_batch_of_arrays_is_each_of_them(student):
    arrays = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    dehazer, told = famkern.Dehazer(student), []
    batch = dehazer(arrays, progress=told.append)
    assert batch.shape == arrays.shape
    assert told == sorted(told)
    assert told[-1] == 1
    for before, after in zip(arrays, batch, strict=True):
        assert np.array_equal(after, dehazer(before))
    for wrong in (arrays[:0], arrays[..., :2], arrays[None]):
        with pytest.raises(ValueError, match=r"\(B, H, W, 3\)"):
            dehazer(wrong)


@pytest.fixture
def colours():
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def test_a_palette_stands_for_its_colours(student, colours):
    dehazer, palette = famkern.Dehazer(student), colours.quantize(16)
    clear = dehazer(palette)
    assert clear.mode == "RGB"
    assert np.array_equal(clear, dehazer(palette.convert("RGB")))


def test_a_palette_s_own_transparency_stays(student, colours):
    image = colours.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    palette = image.quantize(16, method=Image.Quantize.FASTOCTREE)
    assert palette.palette.mode == "RGBA"
    clear = famkern.Dehazer(student)(palette)
    assert np.array_equal(clear.getchannel("A"), palette.convert("RGBA").getchannel("A"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_what_is_transparent_by_its_colour_gets_an_alpha_channel(student, colours, mode):
    dehazer = famkern.Dehazer(student)
    image = colours.quantize(16) if mode == "P" else colours.convert(mode)
    image.info["transparency"] = image.getpixel((3, 4))
    clear = dehazer(image)
    assert clear.mode == ("LA" if mode == "L" else "RGBA")
    assert "transparency" not in clear.info
    assert clear.getpixel((3, 4))[-1] == 0
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert 0 < (alpha == 255).mean() < 1
    assert np.array_equal(np.asarray(clear)[..., -1], alpha)
    file = io.BytesIO()
    clear.save(file, "PNG")


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_grey_of_16_bits_stays_that(student, mode):
    grey = np.random.default_rng(2).integers(0, 65536, (20, 30), dtype=np.uint16)
    image = Image.fromarray(grey)
    if mode != image.mode:
        image = Image.frombytes(mode, image.size, grey.astype(">u2").tobytes())
    dehazer = famkern.Dehazer(student)
    clear = dehazer(image)
    assert clear.mode == "I;16"
    expected = dehazer(np.repeat(grey[..., None], 3, 2)) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    assert np.array_equal(np.asarray(clear), np.rint(expected).astype(np.uint16))


@pytest.mark.parametrize("mode", ["1", "CMYK", "F", "I", "HSV"])
def test_other_modes_are_refused_by_name(student, mode):
    with pytest.raises(ValueError, match=f"not {mode}"):
        famkern.Dehazer(student)(Image.new(mode, (4, 4)))


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_it_says_what_it_is(student):
    assert repr(famkern.Dehazer()) == "Dehazer('student')"
    dehazer = famkern.Dehazer(student, strength=0.5, device="cpu", dtype="float16", memory="1GiB", threads=2, window=32)
    assert repr(dehazer) == (
        "Dehazer(Student(channels=16, groups=2, blocks=1), strength=0.5, device=cpu, dtype=float16, memory=1.0 GiB, "
        "threads=2, window=32)"
    )
    assert "window=64" in repr(Student(**SMALL, window=64))


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"norm": "l1"}, {"normalize": True}])
def test_a_forward_derivative_of_the_loss_is_refused(options):
    teacher, student = torch.rand(1, 3, 16, 16), torch.rand(1, 2, 16, 16)

    def loss(student):
        return famkern.feature_affinity_loss(teacher, student, teacher_pool=4, student_pool=4, **options)

    with pytest.raises(RuntimeError, match="backwards only"):
        torch.func.jvp(loss, (student,), (student,))
    with pytest.raises(RuntimeError, match="backwards only"):
        torch.func.jacfwd(loss)(student)
    with pytest.raises(RuntimeError, match="backwards only"):
        torch.func.jvp(lambda x: famkern.affinity_matrix(x, pool=4), (student,), (student,))
    (gradient,) = torch.autograd.grad(loss(student.requires_grad_()), student)  # backwards it has one
    assert gradient.abs().sum() > 0


def test_a_forward_derivative_of_the_training_operators_is_refused():
    x, weight, bias = torch.rand(1, 5, 6, 16), torch.rand(16, 16, 3, 3), torch.rand(16)
    if type(conv3x3(x, weight.requires_grad_(), bias)[0].grad_fn).__name__.startswith("ConvolutionBackward"):
        pytest.skip("needs compiled kernels")
    attention = torch.rand(1, 16), torch.rand(2, 16), torch.rand(2), torch.rand(1, 2), torch.rand(1)
    for function in (lambda x: conv3x3(x, weight, bias)[0], lambda x: gate(None, x, *attention)):
        with pytest.raises(RuntimeError, match="backwards only"):
            torch.func.jvp(function, (x,), (x,))
