"""Exported files give what Dehazer gives, at sizes that they were not traced at."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from famkern import Dehazer, export
from famkern.models import Student, Teacher, UStudent

SIZES = [(1, 3, 61, 103), (3, 3, 16, 35), (1, 3, 5, 130)]  # one is smaller than a window, one than a cell of it


def small(family, *shape, **options):
    """A network with gains that its means decide, so that windows show."""
    torch.manual_seed(0)
    network = family(*shape, **options).eval()
    for name, tensor in network.state_dict().items():
        if "ca" in name and name.endswith("weight"):
            tensor.mul_(8)
    return network


NETWORKS = {
    "U-shaped": small(UStudent, (16, 16), (1, 1, 1)),
    "U-shaped, windowed": small(UStudent, (16, 16), (1, 1, 1), norm="batch", window=32),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_what_famkern_gives(name, tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install famkern[export]")
    runtime = pytest.importorskip("onnxruntime", reason="pip install famkern[export]")
    pytest.importorskip("onnxscript", reason="pip install famkern[export]")
    network, path = NETWORKS[name], tmp_path / "network.onnx"
    assert export.export(network, path) <= export.TOLERANCE
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    dehazer = Dehazer(network)
    for size in SIZES:
        image = torch.rand(size)
        found = session.run(None, {"image": image.numpy()})[0]
        np.testing.assert_allclose(found, dehazer(image), atol=1e-5)
    if network.window:  # it would show if the guard of small pictures were lost, or the window
        whole = Dehazer(network, window=0)(image)
        assert (whole - dehazer(image)).abs().max() > 1e-3
    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [export.OPSET]
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert described["window"] == ("32 pixels" if network.window else "the whole picture")
    assert "[0, 1]" in described["input"]
    (value,) = model.graph.input
    sides = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    assert sides[1] == 3
    assert len({*sides}) == 4
    assert all(isinstance(side, str) for side in (sides[0], *sides[2:]))


@pytest.mark.slow
def test_a_program_of_torch_export_runs_without_famkern(tmp_path):
    network, path = small(Student, 16, 1, 1, norm="batch"), tmp_path / "network.pt2"
    assert export.export(network, path) <= export.TOLERANCE
    image = torch.rand(SIZES[0])
    torch.save(image, tmp_path / "image.pt")
    code = """
        import sys
        sys.modules["famkern"] = None
        import torch
        program = torch.export.load("network.pt2").module()
        torch.save(program(torch.load("image.pt")).detach(), "clear.pt")
    """
    subprocess.run([sys.executable, "-c", "\n".join(map(str.strip, code.splitlines()))], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "clear.pt"), Dehazer(network)(image), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_surroundings_of_a_call_do_not_matter(tmp_path):
    network, before = small(Student, 16, 1, 1), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert export.export(network, tmp_path / "network.pt2") <= export.TOLERANCE
    finally:
        torch.set_default_dtype(before)


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    class Wrong(export.Pipeline):
        def forward(self, image):
            return self.network(image).clamp(0, 1)  # not normalised

    monkeypatch.setattr(export, "Pipeline", Wrong)
    with pytest.raises(export.ExportError, match="not written: its results differ by"):
        export.export(Student(16, 1, 1), tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        (Teacher(), "network.onnx", {}, "enlarges pictures and removes no haze|not a Teacher"),
        ("student", "network.pth", {}, r"ends in .onnx \(ONNX\) or .pt2 \(torch.export\) expected"),
        ("student", "network.onnx", {"window": 20}, "window is a multiple of 16"),
        ("no-such-model", "network.onnx", {}, "no such checkpoint"),
        (torch.nn.Conv2d(3, 3, 1), "network.onnx", {}, "not a Conv2d"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_line(model, name, options, message, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as raised:
        export.export(model, tmp_path / name, **options)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_in_a_line(tmp_path):
    (tmp_path / "there.onnx").write_bytes(b"precious")
    for arguments, code, message in [
        (["student", "-o", "network.pt2"], 2, "without --torch a file that ends in .onnx"),
        (["student", "-o", "network.onnx", "--torch"], 2, "--torch writes a file that ends in .pt2"),
        (["student", "-o", "there.onnx"], 1, "--overwrite"),
        (["no-such-model", "-o", "network.onnx"], 2, "no such checkpoint"),
        (["student", "-o", "no/such/folder/network.onnx"], 1, "cannot be written"),
    ]:
        result = _command(arguments, tmp_path)
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.output
        assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_bytes() == b"precious"


def _command(arguments, folder):
    import os

    from typer.testing import CliRunner

    from famkern.cli import app

    before = os.getcwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(app, ["export", *arguments])
    finally:
        os.chdir(before)
