import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from famkern import bench, cli, models
from famkern.bench import measuring, suites
from famkern.bench.quality import CITED, MEASURED
from famkern.bench.results import Row

TINY = bench.Plan(
    models=("u-indoor",),
    engines=("PyTorch",),
    scales=(1, 2),
    sizes=((20, 24), (40, 24)),
    rounds=2,
    memory=((16, 20),),
    suites=(),
)
CARDS = Path(models.zoo.__file__).parent / "weights"


@pytest.fixture(scope="module")
def results():
    return bench.run(TINY)


def test_every_entry_is_timed_at_every_size(results):
    found = [(row.entry.engine, row.entry.scale, row.entry.dtype, row.height) for row in results.rows]
    entries = [
        ("famkern", 1, "float32"),
        ("famkern", 1, "float16"),
        ("famkern", 2, "float32"),
        ("PyTorch", 1, "float32"),
    ]
    assert found == [(*entry, height) for height in (20, 40) for entry in entries]
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in results.rows)
    assert all(group[0].entry == bench.Entry("u-indoor") for group in results.groups())
    assert [row for group in results.groups() for row in group] == results.rows
    assert not results.left_out


def test_memory_is_of_processes_of_their_own(results):
    assert [(m.entry.engine, m.entry.scale, m.entry.dtype, m.height) for m in results.memory] == [
        ("famkern", 1, "float32", 16),
        ("famkern", 1, "float16", 16),
        ("famkern", 2, "float32", 16),
    ]
    assert all(0 <= m.bytes < 1 << 28 for m in results.memory)


def test_the_file_holds_every_figure(results, tmp_path):
    results.write_json(tmp_path / "bench.json")
    data = json.loads((tmp_path / "bench.json").read_text())
    assert [row["seconds"] for row in data["rows"]] == [list(row.seconds) for row in results.rows]
    assert data["rows"][0]["median"] == results.rows[0].median
    assert data["machine"]["threads"] == torch.get_num_threads()


def test_the_plot_is_a_picture(results, tmp_path):
    pytest.importorskip("matplotlib")
    bench.plot(results, tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_the_page_has_every_row(results):
    text = bench.page(results, "bench.png")
    assert text.startswith("# famkern on ")
    assert "](bench.png)" in text
    for size in ("24 x 20", "24 x 40"):
        assert f"## u-indoor, {size}" in text
    for row in results.rows:
        assert f"| {row.entry.label} | {1e3 * row.median:.0f} ms |" in text
    assert f"| u-indoor | 20 x 16 | famkern | {results.memory[0].bytes / 2**20:.0f} |" in text


def test_the_page_begins_with_seconds_and_ratios_of_each_network():
    entries = [(bench.Entry("u-indoor"), (0.05, 2.0)), (bench.Entry("u-indoor", scale=2), (0.02, 0.5))]
    entries.append((bench.Entry("u-indoor", "PyTorch"), (0.4,)))
    rows = [bench.Row(entry, 10, 20 * (i + 1), (s,)) for entry, each in entries for i, s in enumerate(each)]
    results = bench.Results({"processor": "P", "threads": 2, "famkern": "1", "torch": "2", "kernels": "k"}, rows)
    assert """## u-indoor

| | 20 x 10 | 40 x 10 | PSNR |
|---|---|---|---|
| famkern | 50 ms | 2.0 s | 26.24 dB |
| famkern, scale 2 | 20 ms, 0.4x | 500 ms, 0.25x | 25.73 dB |
| PyTorch | 400 ms, 8x |  |  |
""" in bench.page(results)


def test_a_wrong_result_is_not_timed(monkeypatch):
    class Wrong(measuring.Pipeline):
        def forward(self, image):
            return super().forward(image) + 0.01

    monkeypatch.setattr(measuring, "Pipeline", Wrong)
    with pytest.raises(bench.WrongResultError, match=r"u-indoor, famkern: wrong by 1\.0e-02, and so not timed"):
        bench.run(TINY)


def test_a_wrong_engine_is_not_timed(monkeypatch):
    monkeypatch.setitem(bench.ENGINES, "PyTorch", lambda network, size, threads: lambda image: network(image) * 0.99)
    with pytest.raises(bench.WrongResultError, match="u-indoor, PyTorch: wrong"):
        bench.run(TINY)


@pytest.fixture
def small(monkeypatch):
    """Suites of small inputs, and nothing compiled."""
    for name, value in {"MAPS": (16, 24), "SIDE": 16, "FILES": 2, "FRAMES": 2, "HD": (48, 64)}.items():
        monkeypatch.setattr(suites, name, value)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(measuring, "SHORT", 0)
    return dataclasses.replace(TINY, sizes=(), models=(), memory=(), rounds=3, threads=1)


@pytest.mark.parametrize(
    ("name", "unit", "least"),
    [("affinity", "step", 5), ("training", "step", 5), ("files", "file", 4), ("films", "frame", 4)],
)
def test_what_else_is_compared(small, name, unit, least):
    if name == "films":
        pytest.importorskip("av", reason="needs PyAV (pip install 'famkern[video]')")
    results = bench.run(dataclasses.replace(small, suites=(name,)))
    (comparison,) = results.comparisons
    assert comparison.unit == unit
    assert len(comparison.seconds) >= least
    assert next(iter(comparison.seconds)).startswith("famkern")
    assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in comparison.seconds.values())
    page = bench.page(results)
    assert f"## {comparison.title}" in page
    assert all(f"| {label} | " in page for label in comparison.seconds)
    assert json.loads(results.to_json())["comparisons"][0]["medians"] == comparison.medians


@pytest.mark.parametrize("name", ["affinity", "training"])
def test_a_wrong_gradient_is_not_timed(small, monkeypatch, name):
    wrong = lambda teacher, student: 100 * suites.identity(teacher, student)  # noqa: E731
    monkeypatch.setattr(suites, "feature_affinity_loss", wrong)
    with pytest.raises(bench.WrongResultError, match="famkern: its gradient is wrong by "):
        bench.run(dataclasses.replace(small, suites=(name,)))


def test_a_wrong_file_is_not_timed(small, monkeypatch):
    monkeypatch.setitem(bench.ENGINES, "OpenVINO", lambda network, size, threads: lambda image: 1 - image)
    with pytest.raises(bench.WrongResultError, match=r"Pillow and OpenVINO: \d+\.\d of 255 from famkern"):
        bench.run(dataclasses.replace(small, suites=("files",)))


def test_what_is_missing_or_too_slow_is_named(monkeypatch):
    def missing(network, size, threads):
        raise bench.Missing("nothing is not installed: pip install nothing")

    monkeypatch.setitem(bench.ENGINES, "missing", missing)
    plan = dataclasses.replace(TINY, engines=("missing", "PyTorch"), limit=1e-9, memory=())
    left = bench.run(plan).left_out
    assert [(one.entry.label, one.size) for one in left] == [("missing", None), ("PyTorch", (40, 24))]
    assert left[0].reason == "nothing is not installed: pip install nothing"
    assert left[1].reason.startswith("would take ")


def test_the_number_of_threads_is_that_of_before():
    before = torch.get_num_threads()
    found = bench.run(dataclasses.replace(TINY, sizes=(), memory=(), threads=1))
    assert found.machine["threads"] == 1
    assert torch.get_num_threads() == before


def test_median_and_spread():
    row = Row(bench.Entry("student"), 2, 3, (5.0, 1.0, 2.0, 3.0, 4.0))
    assert (row.median, row.spread) == (3.0, 2 / 3)
    assert dataclasses.replace(row, seconds=(1.0,)).spread == 0


@pytest.mark.parametrize("name", MEASURED)
def test_figures_beside_times_are_those_of_the_cards(name):
    figures = re.findall(r"(\d\d\.\d\d) dB", (CARDS / f"{name}.md").read_text())
    assert set(MEASURED[name]) >= {1, 2}
    assert {f"{psnr:.2f}" for psnr in MEASURED[name].values()} <= set(figures)


def test_cited_networks_need_more():
    assert all(psnr > 30 and multiply_adds > 3e4 for psnr, multiply_adds in CITED.values())


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(bench, "plan", lambda name, threads: dataclasses.replace(TINY, threads=threads))

    def call(*arguments):
        return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])

    return call


def test_the_command_prints_a_table_and_writes_its_files(command, tmp_path):
    result = command(
        "--quick",
        "--threads",
        1,
        "--json",
        tmp_path / "a.json",
        "--plot",
        tmp_path / "a.png",
        "--page",
        tmp_path / "a.md",
    )
    assert result.exit_code == 0, result.output
    assert "u-indoor, 24 x 40" in result.output
    psnr = re.escape(f"{MEASURED['u-indoor'][2]:.2f} dB")
    assert re.search(rf"famkern, scale 2 +\d+ ms +\d+ % +\d+\.\d\d x +{psnr}", result.output)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.md", "a.png"}


def test_the_command_refuses_before_it_measures(command, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "run", lambda *_: pytest.fail("measured"))
    result = command("--json", tmp_path)
    assert result.exit_code == 2
    assert result.output == f"famkern: {tmp_path}: is a folder; name a file\n"


def test_the_quick_plan_is_a_part_of_the_full_one():
    quick, full = bench.plan("quick"), bench.plan()
    assert set(quick.engines) < set(full.engines)
    assert set(quick.sizes) < set(full.sizes)
    assert quick.rounds < full.rounds
