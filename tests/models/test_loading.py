"""Checkpoints of famkern, of the paper's code and of FFA-Net load; anything else gets one line."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from famkern.models import Student, Teacher, WeightsError, available, load, zoo


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("numbers", [(16, 3, 6, None), (32, 2, 1, None), (64, 1, 2, None), (16, 4, 2, "batch")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pk"])
def test_the_numbers_of_the_family_are_read_off_the_tensors(tmp_path, numbers, suffix):
    student = Student(*numbers)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(student.state_dict(), path)
    loaded = load(path)
    assert (loaded.channels, loaded.groups, loaded.blocks, loaded.norm) == numbers
    assert not loaded.training
    assert same(loaded, student)


def test_a_training_checkpoint_of_ffa_net_loads(tmp_path):
    """Such checkpoints hold NumPy scalars beside the tensors, and names with the prefix of DataParallel."""
    student = Student(16, 3, 1)
    histories = {
        "psnrs": [np.float64(20.5), np.float64(21.0)],
        "ssims": [np.float32(0.8)],
        "max_psnr": np.float64(21.0),
    }
    content = {"step": np.int64(7), "losses": [0.1], **histories}
    content["model"] = {f"module.{name}": tensor for name, tensor in student.state_dict().items()}
    torch.save(content, tmp_path / "its_train_ffa_3_1.pk")
    assert same(load(tmp_path / "its_train_ffa_3_1.pk"), student)


def test_numpy_scalars_pickled_by_numpy_1_load(tmp_path, monkeypatch):
    """NumPy 1 wrote another module name into the pickle; older PyTorch, another file format."""
    student = Student(16, 1, 1)
    content = {"max_psnr": np.float64(21.0), "model": student.state_dict()}
    torch.save(content, tmp_path / "new.pk", _use_new_zipfile_serialization=False)
    data = (tmp_path / "new.pk").read_bytes()
    assert (b"cnumpy._core.multiarray\n" in data) == (np.lib.NumpyVersion(np.__version__) >= "2.0.0")
    (tmp_path / "old.pk").write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert same(load(tmp_path / "old.pk"), student)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
@pytest.mark.parametrize("wrapper", ["state_dict", "params", "model", None])
@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "student.",
        "model.module.",
        "network.",
    ],
)
def test_prefixes_of_training_programs_are_taken_off(tmp_path, prefix, wrapper, suffix):
    student = Student(16, 1, 1)
    tensors = {f"{prefix}{name}": tensor for name, tensor in student.state_dict().items()}
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / f"a{suffix}")
    assert same(load(tmp_path / f"a{suffix}"), student)


def test_other_networks_beside_the_student_s_stay_out(tmp_path):
    student, other = Student(16, 1, 1), Student(16, 1, 1)
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    tensors |= {f"average.module.{name}": tensor for name, tensor in other.state_dict().items()}
    torch.save({"state_dict": tensors, "epoch": 3, "global_step": 9}, tmp_path / "last.ckpt")
    assert same(load(tmp_path / "last.ckpt"), student)


def test_of_basicsr_the_average_is_taken(tmp_path):
    student, other = Student(16, 1, 1), Student(16, 1, 1)
    torch.save({"params": other.state_dict(), "params_ema": student.state_dict()}, tmp_path / "net_g.pth")
    assert same(load(tmp_path / "net_g.pth"), student)


def test_a_compiled_part_of_a_network_loads(tmp_path):
    student = Student(16, 1, 1)
    tensors = {name.replace("g1.", "g1._orig_mod."): tensor for name, tensor in student.state_dict().items()}
    torch.save(tensors, tmp_path / "a.pth")
    assert same(load(tmp_path / "a.pth"), student)


@pytest.mark.parametrize(
    "wrap", [lambda t: {"model": t}, lambda t: {"state_dict": t}, lambda t: {"model": {"state_dict": t}}]
)
def test_wrappers_are_opened(tmp_path, wrap):
    student = Student(16, 1, 1)
    torch.save(wrap(student.state_dict()), tmp_path / "wrapped.pth")
    assert same(load(tmp_path / "wrapped.pth"), student)


def test_a_teacher_loads(tmp_path):
    teacher = Teacher()
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    assert same(load(tmp_path / "teacher.safetensors"), teacher)


def test_half_precision_checkpoints_become_float32(tmp_path):
    save_file({k: v.half() for k, v in Student(16, 1, 1).state_dict().items()}, tmp_path / "half.safetensors")
    assert load(tmp_path / "half.safetensors").pre[0].weight.dtype == torch.float32


class Exploit:
    def __reduce__(self):
        return os.system, ("echo unsafe",)


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.save({"model": {"pre.0.weight": Exploit()}}, p), "read as data"),
        (lambda p: p.write_bytes(pickle.dumps(Exploit())), "read as data"),
        (lambda p: (torch.save(Student(16, 1, 1).state_dict(), p), cut(p)), "read as data"),
        (lambda p: p.write_bytes(b""), "read as data"),
        (lambda p: p.write_text("hello"), "read as data"),
        (lambda p: torch.save([1, 2], p), "dictionary of tensors expected, list found"),
        (lambda p: torch.save({"pre.0.weight": 3}, p), "'pre.0.weight' is of type int"),
        (lambda p: torch.save({"conv.weight": torch.zeros(1)}, p), "found conv.weight"),
        (lambda p: torch.save({}, p), "found nothing"),
        (lambda p: torch.save({**Student(16, 1, 1).state_dict(), "extra": torch.zeros(1)}, p), "no tensor extra"),
        (lambda p: torch.save(without("post.1.bias"), p), "has a tensor post.1.bias, which the file lacks"),
        (lambda p: torch.save({**Student(16, 1, 1).state_dict(), "post.1.bias": torch.zeros(4)}, p), r"has \(4,\)"),
        (lambda p: torch.save(Student(16, 1, 1), p), "a pickled object|read as data"),
        (lambda p: torch.save({**Student(16, 1, 1).state_dict(), "ca.1.bias": torch.tensor([torch.nan])}, p), "NaN"),
        (lambda p: torch.save({**Student(16, 1, 1).state_dict(), "ca.1.bias": torch.zeros(1).int()}, p), "dense float"),
        (lambda p: torch.save({"pre.0.weight": torch.zeros(10, 3, 3, 3)}, p), "multiple of 16"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_wrong_file_gets_one_line(tmp_path, make, message, capfd):
    path = tmp_path / "wrong.pth"
    make(path)
    with pytest.raises(WeightsError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "unsafe" not in capfd.readouterr().out


def without(name):
    tensors = Student(16, 1, 1).state_dict()
    del tensors[name]
    return tensors


def test_a_wrong_suffix_and_a_missing_file_get_one_line(tmp_path):
    (tmp_path / "weights.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"ends in one of \.safetensors"):
        load(tmp_path / "weights.onnx")
    with pytest.raises(FileNotFoundError, match=r"nor one of the models that come with famkern \(.*student.*\)"):
        load("no-such-model")


@pytest.mark.parametrize(
    ("metadata", "window"),
    [
        (None, None),
        ({}, None),
        ({"famkern": '{"window": 192}'}, 192),
        ({"famkern": '{"step": 3}'}, None),
        ({"famkern": "made by hand"}, None),
        ({"format": "pt"}, None),
    ],
)
def test_the_window_stands_in_the_metadata(tmp_path, metadata, window):
    save_file(Student(16, 1, 1).state_dict(), tmp_path / "a.safetensors", metadata)
    assert load(tmp_path / "a.safetensors").window == window


def test_a_wrong_window_in_the_metadata_gets_one_line(tmp_path):
    save_file(Student(16, 1, 1).state_dict(), tmp_path / "a.safetensors", {"famkern": '{"window": "wide"}'})
    with pytest.raises(WeightsError, match=r"a.safetensors: its metadata say: window is a multiple of 16"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("metadata", "side"), [(None, None), ({"famkern": '{"scale_side": 640}'}, 640)])
def test_the_side_that_the_weights_are_best_at_stands_in_the_metadata(tmp_path, metadata, side):
    save_file(Student(16, 1, 1).state_dict(), tmp_path / "a.safetensors", metadata)
    assert load(tmp_path / "a.safetensors").scale_side == side


@pytest.mark.parametrize("side", ["0", "-640", "1.5", "640.0", "true", '"wide"', "[640]", "null"])
def test_a_wrong_side_in_the_metadata_gets_one_line(tmp_path, side):
    save_file(Student(16, 1, 1).state_dict(), tmp_path / "a.safetensors", {"famkern": f'{{"scale_side": {side}}}'})
    with pytest.raises(
        WeightsError, match=r"a.safetensors: its metadata say: scale_side is a positive number of pixels"
    ):
        load(tmp_path / "a.safetensors")


def test_unpickling_numpy_scalars_opens_no_door_for_others(tmp_path):
    before = set(map(repr, torch.serialization.get_safe_globals()))
    torch.save({"max_psnr": np.float64(21.0), "model": Student(16, 1, 1).state_dict()}, tmp_path / "a.pk")
    load(tmp_path / "a.pk")
    assert set(map(repr, torch.serialization.get_safe_globals())) == before


@pytest.mark.parametrize("name", available())
def test_every_shipped_model_has_a_card_and_loads(name):
    assert load(name).eval() is not None
    card = (zoo.WEIGHTS / f"{name}.md").read_text(encoding="utf-8")
    for heading in ("Data", "Recipe", "Licence", "Figures"):
        assert heading in card
    assert "@" not in card


def test_every_shipped_file_is_in_the_checksums():
    assert {p.stem for p in zoo.WEIGHTS.glob("*.safetensors")} == set(available())


def test_a_damaged_model_is_refused(tmp_path, monkeypatch):
    for file in ("SHA256SUMS", "student.safetensors"):
        shutil.copy(zoo.WEIGHTS / file, tmp_path)
    data = bytearray((tmp_path / "student.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "student.safetensors").write_bytes(data)
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    with pytest.raises(WeightsError, match="reinstall famkern"):
        load("student")
