"""The contract of famkern.dehaze and famkern.Dehazer."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import famkern
from famkern.models import Student, Teacher, UStudent
from famkern.models.student import normalise


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return Student(16, 2, 1).eval()


@pytest.fixture(scope="module")
def dehazer(student):
    return famkern.Dehazer(student)


def network(student, image):
    """The student's own output for a tensor (B, 3, H, W) in [0, 1]."""
    with torch.inference_mode():
        return student(normalise(image)).clamp(0, 1)


def test_dehaze_with_the_shipped_weights_changes_a_picture():
    image = torch.rand(3, 24, 31)
    result = famkern.dehaze(image)
    assert result.shape == image.shape
    assert (result - network(famkern.models.load("student"), image[None])[0]).abs().max() < 1e-4
    assert not torch.equal(result, image)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (17, 1), (2, 3), (37, 53)])
def test_any_size(dehazer, student, size):
    image = torch.rand(3, *size)
    assert (dehazer(image) - network(student, image[None])[0]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_tensor_comes_back_as_it_was_given(dehazer, student, dtype, batch):
    shape = (3, 19, 23) if batch is None else (batch, 3, 19, 23)
    image = torch.rand(shape)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    result = dehazer(image)
    assert (result.shape, result.dtype, result.device) == (image.shape, dtype, image.device)
    values = image.reshape(-1, 3, 19, 23).float() / (255 if dtype == torch.uint8 else 1)
    expected = network(student, values).reshape(shape)
    if dtype == torch.uint8:
        assert (result - torch.round(255 * expected)).abs().max() <= 1
        assert (result != torch.round(255 * expected)).float().mean() < 1e-3  # where a rounding error crosses a half
    else:
        assert (result - expected).abs().max() <= max(1e-5, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">u2", ">f4"])
def test_an_array_comes_back_as_it_was_given(dehazer, student, dtype):
    values = np.random.default_rng(0).random((19, 23, 3))
    scale = {1: 255, 2: 65535}[np.dtype(dtype).itemsize] if np.dtype(dtype).kind == "u" else 1
    image = (values * scale).astype(dtype)
    result = dehazer(image)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    tensor = torch.from_numpy(image.astype(np.float32) / scale).permute(2, 0, 1)
    expected = network(student, tensor[None])[0].permute(1, 2, 0).numpy()
    tolerance = 1 if scale > 1 else max(1e-5, np.finfo(dtype).eps)
    assert np.abs(result.astype(np.float64) - scale * expected.astype(np.float64)).max() <= tolerance


@pytest.mark.parametrize("size", [(1, 1), (1, 257), (3, 5), (7, 4), (61, 47)])
def test_a_u_shaped_student_is_a_network_too(size):
    student = UStudent((16, 32, 64), (1, 2, 1, 1, 1)).eval()
    images = torch.rand(3, 3, *size)
    dehazer = famkern.Dehazer(student)
    result = dehazer(images)
    assert (result - network(student, images)).abs().max() < 1e-5
    assert torch.equal(result, dehazer.limited(dehazer.least_memory(*size))(images))
    assert torch.equal(result, famkern.Dehazer(student, threads=1)(images))
    with pytest.raises(ValueError, match="a multiple of 64"):
        famkern.Dehazer(student, window=32)


def test_integers_are_rounded_half_to_even():
    """With all weights zero the network returns the normalised picture, which can be computed by hand."""
    identity = Student(16, 1, 1)
    for parameter in identity.parameters():
        torch.nn.init.zeros_(parameter)

    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    result = famkern.Dehazer(identity, dtype=torch.float64)(image)
    exact = (normalise(image.double() / 255)).clamp(0, 1)
    assert torch.equal(result, torch.round(255 * exact).to(torch.uint8))


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        lambda image: torch.stack([image, image], -1)[..., 0],
        lambda image: image.flip(1).flip(1),
        lambda image: image.clone().requires_grad_(),
    ],
)
def test_strides_do_not_matter(dehazer, make):
    image = torch.rand(3, 13, 17)
    assert torch.equal(dehazer(make(image)), dehazer(image))


def test_arrays_may_be_read_only_reversed_and_sliced(dehazer):
    image = np.random.default_rng(0).random((13, 17, 3), dtype=np.float32)
    expected = dehazer(image)
    frozen = image.copy()
    frozen.setflags(write=False)
    doubled = np.repeat(image, 2, axis=1)
    for view in (frozen, image[::-1].copy()[::-1], doubled[:, ::2], np.asfortranarray(image)):
        assert np.array_equal(dehazer(view), expected)


def test_an_expanded_tensor_is_a_picture_too(dehazer):
    grey = torch.rand(1, 9, 11)
    assert torch.equal(dehazer(grey.expand(3, 9, 11)), dehazer(grey.repeat(3, 1, 1)))


def test_the_input_stays_as_it_was(dehazer):
    image = torch.rand(3, 9, 11)
    before = image.clone()
    dehazer(image)
    assert torch.equal(image, before)


def test_the_result_can_take_part_in_training(dehazer):
    result = dehazer(torch.rand(3, 9, 11))
    assert not result.requires_grad
    weight = torch.ones((), requires_grad=True)
    (weight * result).sum().backward()  # a tensor made in inference mode would refuse
    assert weight.grad == result.sum()


def test_pictures_of_a_batch_do_not_influence_each_other(dehazer):
    batch = torch.rand(3, 3, 15, 21)
    for alone, together in zip(batch, dehazer(batch), strict=True):
        assert torch.equal(dehazer(alone), together)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_pil_image_keeps_its_mode_alpha_and_information(dehazer, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (19, 23, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.info["dpi"] = (300, 300)
    result = dehazer(image)
    assert (result.mode, result.size, result.info["dpi"]) == (mode, image.size, (300, 300))
    if mode.endswith("A"):
        assert np.array_equal(result.getchannel("A"), image.getchannel("A"))
    if mode == "RGB":
        assert np.array_equal(np.asarray(result), dehazer(np.asarray(image)))
    if mode == "L":
        rgb = dehazer(np.asarray(image.convert("RGB")))
        assert np.array_equal(np.asarray(result), np.rint(rgb @ np.array([0.299, 0.587, 0.114], np.float32)))


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_strength_blends(student, kind):
    image = torch.rand(3, 11, 13)
    image = (image * 255).to(kind) if kind == torch.uint8 else image
    full = famkern.Dehazer(student, strength=1)(image)
    assert torch.equal(famkern.Dehazer(student, strength=0)(image), image)
    half = famkern.Dehazer(student, strength=0.5)(image)
    tolerance = 1.0 if kind == torch.uint8 else 1e-6
    assert (half.double() - (image.double() + full.double()) / 2).abs().max() <= tolerance


def test_adjusted_is_a_new_one_with_the_weights_of_this(dehazer, student):
    image = torch.rand(3, 40, 50)
    other = dehazer.adjusted(strength=1.3, scale=2)
    assert torch.equal(other(image), famkern.Dehazer(student, strength=1.3, scale=2)(image))
    assert (dehazer.strength, dehazer.scale) == (1, 1)
    for wrong in ({"strength": 3, "scale": 1}, {"strength": 1, "scale": 9}):
        with pytest.raises(ValueError, match=r"strength is a number|scale is a whole number"):
            dehazer.adjusted(**wrong)


@pytest.mark.parametrize("strength", [1.25, 2])
@pytest.mark.parametrize("bound", [None, "64MiB"])
def test_strength_above_1_goes_on_from_the_clamped_output(student, strength, bound):
    image = torch.rand(3, 61, 67)
    full = famkern.Dehazer(student, strength=1)(image)
    more = famkern.Dehazer(student, strength=strength, memory=bound)(image)
    assert torch.allclose(more, (image + strength * (full - image)).clamp(0, 1), atol=1e-6)
    assert (more != full).any()
    eight = (image * 255).to(torch.uint8)
    full = famkern.Dehazer(student, strength=1)(eight / 255)
    expected = (eight / 255 + strength * (full - eight / 255)).clamp(0, 1) * 255
    assert (famkern.Dehazer(student, strength=strength)(eight) - expected).abs().max() <= 0.51


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_strength_out_of_range_is_refused(student, strength):
    with pytest.raises(ValueError, match="strength is a number from 0 to 2"):
        famkern.Dehazer(student, strength=strength)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1e-3, 1.001])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_values_that_would_spoil_the_whole_picture_are_refused(dehazer, value, kind):
    image = np.full((7, 9, 3), 0.5, dtype=np.float32)
    image[3, 4, 1] = value
    given = torch.from_numpy(image).permute(2, 0, 1) if kind == "tensor" else image
    found = "NaN or infinity" if not np.isfinite(value) else "values from"
    with pytest.raises(ValueError, match=f"has values in .0, 1.; this one has {found}"):
        dehazer(given)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.rand(4, 5, 5), ValueError, r"\(3, H, W\) or \(B, 3, H, W\), not \(4, 5, 5\)"),
        (torch.rand(5, 5), ValueError, r"not \(5, 5\)"),
        (torch.rand(1, 1, 3, 5, 5), ValueError, "not"),
        (torch.rand(3, 0, 5), ValueError, r"not \(3, 0, 5\)"),
        (torch.rand(0, 3, 4, 5), ValueError, r"not \(0, 3, 4, 5\)"),
        (torch.zeros(3, 5, 5, dtype=torch.int64), TypeError, "not torch.int64"),
        (torch.zeros(3, 5, 5, dtype=torch.bool), TypeError, "not torch.bool"),
        (np.zeros((3, 5, 5), np.uint8), ValueError, r"\(B, H, W, 3\), not \(3, 5, 5\)"),
        (np.zeros((5, 5), np.uint8), ValueError, r"not \(5, 5\)"),
        (np.zeros((5, 0, 3), np.uint8), ValueError, r"not \(5, 0, 3\)"),
        (np.zeros((5, 5, 3), np.int32), TypeError, "not int32"),
        (Image.new("CMYK", (5, 5)), ValueError, "not CMYK"),
        (Image.new("I", (5, 5)), ValueError, "not I: use convert"),
        (Image.new("RGB", (0, 5)), ValueError, "at least one pixel, not 0 x 5"),
        ([[0, 0, 0]], TypeError, "not a list"),
        ("hazy.jpg", TypeError, "not a str"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_is_accepted(dehazer, image, error, message):
    with pytest.raises(error, match=message):
        dehazer(image)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"device": "tpu"}, "device is"),
        ({"device": "mps"}, "device is"),
        ({"dtype": torch.int8}, "dtype is one of float32, float16, bfloat16, float64, not torch.int8"),
        ({"dtype": "single"}, "not single"),
        ({"dtype": "nn"}, "not nn"),
        ({"memory": "lots"}, "a memory bound is"),
        ({"memory": float("nan")}, "a memory bound is"),
        ({"strength": "a"}, "strength is a number from 0 to 2, not 'a'"),
        ({"threads": 1.5}, "not 1.5"),
        ({"threads": 0}, "threads is a whole number from 1 to 1024, not 0"),
        ({"window": 100}, "window is a multiple of 16 pixels, or None for the whole picture, not 100"),
        ({"window": -16}, "not -16"),
        ({"window": 32.0}, "not 32.0"),
    ],
)
def test_arguments_out_of_range_are_refused(student, argument, message):
    with pytest.raises(ValueError, match=message):
        famkern.Dehazer(student, **argument)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_cuda_without_a_device_is_refused(student):
    with pytest.raises(ValueError, match="finds no CUDA device here"):
        famkern.Dehazer(student, device="cuda")


@pytest.mark.parametrize("model", [Teacher(), torch.nn.Conv2d(3, 3, 1)])
def test_a_network_outside_the_family_is_refused(model):
    with pytest.raises(TypeError, match="a network of the student family, not a"):
        famkern.Dehazer(model)


def test_a_model_may_be_a_name_a_path_or_a_module(student, tmp_path):
    from safetensors.torch import save_file

    save_file(student.state_dict(), tmp_path / "mine.safetensors")
    image = torch.rand(3, 9, 11)
    expected = famkern.dehaze(image, model=student)
    assert torch.equal(famkern.dehaze(image, model=tmp_path / "mine.safetensors"), expected)
    assert torch.equal(famkern.dehaze(image, model=str(tmp_path / "mine.safetensors")), expected)
    assert not torch.equal(famkern.dehaze(image, model="student"), expected)


def test_batch_norm_is_folded():
    torch.manual_seed(0)
    student = Student(16, 1, 2, norm="batch")
    student(torch.randn(4, 3, 16, 16))
    student.eval()
    image = torch.rand(3, 15, 17)
    assert (famkern.dehaze(image, model=student) - network(student, image[None])[0]).abs().max() < 1e-5


def test_later_training_does_not_change_a_dehazer(student):
    image = torch.rand(3, 9, 11)
    copy = Student(16, 2, 1)
    copy.load_state_dict(student.state_dict())
    dehazer = famkern.Dehazer(copy)
    before = dehazer(image)
    torch.nn.init.zeros_(copy.pre[0].weight)
    assert torch.equal(famkern.Dehazer(student)(image), before)
    assert torch.equal(dehazer(image), before)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", torch.float16])
def test_precisions_have_names(student, dtype):
    image = torch.rand(3, 9, 11)
    error = (famkern.Dehazer(student, dtype=dtype)(image) - network(student, image[None])[0]).abs().max()
    assert error < {"float32": 1e-5, "float64": 1e-5, "bfloat16": 4e-2}.get(str(dtype), 4e-3)


def test_other_threads_keep_their_number_of_cpu_threads(student):
    """PyTorch's setting is inherited by threads that are born while another computes."""
    dehazer, seen = famkern.Dehazer(student), []
    large = threading.Thread(target=dehazer, args=(torch.rand(3, 600, 600),))
    large.start()
    while large.is_alive():
        born = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        born.start()
        born.join()
    large.join()
    assert set(seen) <= {torch.get_num_threads()}


def test_autocast_does_not_change_the_precision():
    torch.manual_seed(0)
    dehazer = famkern.Dehazer(Student(48, 1, 1))  # runs on PyTorch's operators
    image = torch.rand(3, 20, 20)
    expected = dehazer(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dehazer(image), expected)


@pytest.mark.parametrize("channels", [16, 48])
@pytest.mark.parametrize("name", ["pre.0", "g1.gp.0.conv1", "g1.gp.1.conv2", "g1.gp.2", "g2.gp.0.conv1", "g2.gp.2"])
def test_maps_that_overflow_16_bits_are_an_error_not_a_black_picture(name, channels):
    """Whichever map it is first: the last one's sums are of what it was before it was stored."""
    student = Student(channels, 2, 2)
    with torch.no_grad():
        student.get_submodule(name).bias += 1e6
    for image in (torch.rand(3, 20, 20), torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)):
        with pytest.raises(ValueError, match="overflow float16"):
            famkern.Dehazer(student, dtype="float16")(image)
        assert famkern.Dehazer(student)(image).isfinite().all()


def test_progress_grows_to_one(student):
    fractions = []
    famkern.Dehazer(student)(torch.rand(2, 3, 200, 4000), progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert len(set(fractions)) > 10


def test_an_interrupt_stops_within_a_band(student):
    seen = []

    def interrupt(fraction):
        seen.append(fraction)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        famkern.Dehazer(student)(torch.rand(3, 40, 4000), progress=interrupt)
    assert len(seen) == 1


def test_threads_are_set_for_the_call_alone(student):
    before = torch.get_num_threads()
    seen = []
    famkern.Dehazer(student, threads=1)(
        torch.rand(3, 9, 11), progress=lambda _: seen.append(torch.get_num_threads())
    )  # fmt: skip
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


class InRows:
    """Gives and takes slices of rows, as a data set of HDF5 does, and nothing else."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        return self._array[rows].copy()

    def __setitem__(self, rows, values):
        self._array[rows] = values


@pytest.mark.parametrize(
    "options", [{}, {"scale": 2}, {"strength": 0.5}, {"strength": 0}, {"scale": 2, "strength": 1.5}]
)
@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float16, np.float32])
def test_a_picture_is_streamed_to_the_same_bits(student, dtype, options):
    image = np.random.default_rng(0).random((45, 38, 3))
    hazy = image.astype(dtype) if np.dtype(dtype).kind == "f" else (image * np.iinfo(dtype).max).astype(dtype)
    clear, valid = np.zeros_like(hazy), image[..., 0] > 0.3
    dehazer = famkern.Dehazer(student, **options)
    dehazer.limited(dehazer.least_memory(45, 38)).stream(InRows(hazy), InRows(clear), valid=InRows(valid))
    assert np.array_equal(clear, dehazer(hazy, valid=valid))


def test_a_stream_is_of_one_shape_and_dtype(student):
    dehazer, hazy = famkern.Dehazer(student), np.zeros((9, 7, 3), np.uint8)
    for sink in (np.zeros((9, 8, 3), np.uint8), np.zeros((9, 7, 3), np.uint16)):
        with pytest.raises(ValueError, match="the sink is"):
            dehazer.stream(hazy, sink)
    with pytest.raises(ValueError, match="has the shape"):
        dehazer.stream(hazy[..., 0], hazy[..., 0])
    with pytest.raises(TypeError, match="int32"):
        dehazer.stream(hazy.astype(np.int32), hazy.astype(np.int32))


def test_a_memory_bound_changes_nothing_but_memory(student):
    image = torch.rand(3, 300, 200)
    expected = famkern.Dehazer(student)(image)
    result = famkern.Dehazer(student, memory="20MiB")(image)
    assert (result - expected).abs().max() < 1e-5
    with pytest.raises(famkern.MemoryBoundError, match="at least"):
        famkern.Dehazer(student, memory=1000)(image)


@pytest.fixture(scope="module")
def local():
    """A student whose channel attention sees windows, and whose result shows it."""
    torch.manual_seed(0)
    student = Student(16, 2, 2, window=48).eval()
    for name, parameter in student.named_parameters():
        if "calayer" in name:
            parameter.data *= 10
    return student


def test_means_over_windows_are_those_of_the_network(local):
    image = torch.rand(1, 3, 130, 150)
    image[..., :60] *= 0.3
    result = famkern.Dehazer(local)(image)
    assert (result - network(local, image)).abs().max() < 1e-5
    whole = famkern.Dehazer(local, window=0)(image)
    assert (whole - result).abs().max() > 1e-3
    assert torch.equal(whole, famkern.Dehazer(local, window=160)(image))  # one window holds the picture
    assert (famkern.Dehazer(local, window=96)(image) - result).abs().max() > 1e-4
    assert local.window == 48
    assert torch.equal(famkern.dehaze(image, model=local, window=0), whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bands_bounds_and_threads_leave_the_bits_of_windows_alone(local, dtype):
    image = torch.rand(3, 301, 407)
    expected = famkern.Dehazer(local, dtype=dtype, threads=1)(image)
    for threads in (1, 2, 3):
        dehazer = famkern.Dehazer(local, dtype=dtype, threads=threads)
        for memory in (dehazer.least_memory(301, 407), "24MiB", None):
            assert torch.equal(dehazer.limited(memory)(image), expected), (threads, memory)


def test_one_dehazer_serves_several_threads():
    dehazer = famkern.Dehazer()
    images = [torch.rand(3, 20 + n, 30) for n in range(6)]
    expected = [dehazer(image) for image in images]
    results = [None] * len(images)
    fresh = famkern.Dehazer()

    def work(n):
        results[n] = fresh(images[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        assert (result - wanted).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float16", 5e-3)])
def test_a_gpu_gives_the_same_picture(student, dtype, bound):
    image = torch.rand(3, 300, 401)
    expected = network(student, image[None])[0]
    for given in (image, image.cuda()):
        result = famkern.Dehazer(student, device="cuda", dtype=dtype)(given)
        assert result.device == given.device
        assert (result.cpu() - expected).abs().max() < bound
    spilled = famkern.Dehazer(student, device="cuda", dtype=dtype, memory="20MiB")(image)
    assert (spilled - expected).abs().max() < bound
