"""TIFFs that do not fit the memory bound: through files on disk, to the same bits."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tifffile
import torch

import famkern
from famkern import images
from famkern.batch import Options, dehaze_files, pictures, plan_jobs
from famkern.cli.report import Report
from famkern.engine import disk, spilled_arrays
from famkern.images import segments
from famkern.models import Student

U8, U16, F32 = np.uint8, np.uint16, np.float32
GEO = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (34737, 2, 0, "WGS 84 / UTM zone 33N|", True)]


@pytest.fixture(autouse=True)
def spill(tmp_path, monkeypatch):
    """The folder of spill files; files are decoded in blocks of a few rows."""
    folder = tmp_path / "spill"
    folder.mkdir()
    monkeypatch.setenv("FAMKERN_SPILL_DIR", str(folder))
    monkeypatch.setattr(disk, "IN_MEMORY", set())  # the tests' folder may be a tmpfs
    monkeypatch.setattr(segments, "BUFFER_BYTES", 3000)
    return folder


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return Student(16, 1, 1)


def noise(height=61, width=67, channels=3, dtype=U8):
    samples = np.random.default_rng(height).random((height, width, channels))
    return samples.astype(F32) if dtype == F32 else (samples * np.iinfo(dtype).max).astype(dtype)


def both(tmp_path, dehazer, monkeypatch, mask=None):
    """Samples and tags of the pages of the output for a.tif, which are the same from memory and from disk."""
    source, options = tmp_path / "a.tif", Options(mask=mask)
    header, stream = images.header(source), famkern.Dehazer.stream

    def in_bands(self, source, sink, **options):
        assert isinstance(source, disk.SpilledArray)
        assert isinstance(sink, disk.SpilledArray)
        stream(self.limited(self.least_memory(header.height, header.width)), source, sink, **options)

    for name in ("memory", "disk"):
        if name == "disk":
            monkeypatch.setattr(pictures, "maker", lambda needs: spilled_arrays(1 << 20))
            monkeypatch.setattr(famkern.Dehazer, "stream", in_bands)
        (outcome,) = dehaze_files(plan_jobs([source], tmp_path / name / "a.tif", options=options), dehazer, options)
        assert outcome.done, outcome.problem
    assert (tmp_path / "disk/a.tif").read_bytes() == (tmp_path / "memory/a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "disk/a.tif") as file:
        return [(page.asarray(), {tag.code: tag.value for tag in page.tags}) for page in file.pages]


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("dtype", [U8, U16, F32])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
        {"compression": "lzw", "tile": (16, 32), "bigtiff": True},
        {"planarconfig": "separate", "compression": "zstd", "byteorder": ">"},
    ],
    ids=str,
)
def test_the_bits_are_those_from_memory(tmp_path, student, monkeypatch, layout, dtype, scale):
    samples = noise(dtype=dtype)
    planar = "planarconfig" in layout
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(samples, -1, 0) if planar else samples, photometric="rgb", **layout
    )
    dehazer = famkern.Dehazer(student, scale=scale)
    expected = dehazer(samples)
    ((written, _),) = both(tmp_path, dehazer, monkeypatch)
    assert np.array_equal(written, expected)


@pytest.mark.parametrize("strength", [0, 0.5])
def test_any_strength_grey_and_bands(tmp_path, student, monkeypatch, strength):
    dehazer = famkern.Dehazer(student, strength=strength)
    tifffile.imwrite(tmp_path / "a.tif", noise(channels=5), photometric="rgb", extrasamples=[0, 0])
    ((written, _),) = both(tmp_path, dehazer, monkeypatch)
    assert np.array_equal(written[..., 3:], noise(channels=5)[..., 3:])


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("kind", ["nodata", "grey nodata", "mask", "alpha", "associated alpha", "nothing"])
def test_pixels_without_data(tmp_path, student, monkeypatch, kind, scale):
    samples = noise(channels=4 if "alpha" in kind else 3)
    samples[5:40, 9:50] = samples[50, :] = 0
    if kind == "nothing":
        samples[...] = 0
    tags = [(42113, 2, 0, "0", True)] if kind != "mask" else []
    kinds = {"alpha": [2], "associated alpha": [1]}.get(kind)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        if kind == "grey nodata":
            file.write(samples[..., 0], photometric="minisblack", extratags=tags)
        else:
            file.write(
                samples, photometric="rgb", extrasamples=kinds, extratags=tags, compression="zlib", tile=(16, 16)
            )
        if kind == "mask":
            file.write(samples.any(-1), photometric="mask", subfiletype=4, compression="zlib", rowsperstrip=9)
    pages = both(tmp_path, famkern.Dehazer(student, scale=scale), monkeypatch)
    assert not pages[0][0][5:40, 9:50].any()
    assert len(pages) == (2 if kind == "mask" else 1)
    if kind == "mask":
        assert np.array_equal(pages[1][0] != 0, samples.any(-1))


def test_a_mask_of_the_user_s(tmp_path, student, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(), photometric="rgb")
    weights = noise(channels=1)[..., 0]
    weights[:9] = 0
    tifffile.imwrite(tmp_path / "mask.tif", weights)
    ((written, _),) = both(tmp_path, famkern.Dehazer(student), monkeypatch, mask=tmp_path / "mask.tif")
    assert np.array_equal(written[:9], noise()[:9])


def test_another_colour_space(tmp_path, student, monkeypatch):
    import imagecodecs

    profile = bytes(imagecodecs.cms_profile("adobergb"))
    tifffile.imwrite(tmp_path / "a.tif", noise(), photometric="rgb", iccprofile=profile)
    ((_, tags),) = both(tmp_path, famkern.Dehazer(student), monkeypatch)
    assert tags[34675] == profile


def test_metadata_stay(tmp_path, student, monkeypatch):
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(),
        photometric="rgb",
        metadata=None,
        description="a hill",
        resolution=(300, 300),
        extratags=GEO,
    )
    ((_, tags),) = both(tmp_path, famkern.Dehazer(student), monkeypatch)
    assert tags[33550] == (0.5, 0.5, 0.0)
    assert tags[34737].startswith("WGS 84")
    assert (tags[270], tags[282]) == ("a hill", (300, 1))
    assert tags[322] == 80  # columns of a tile


class TestBound:
    """Of 2000 x 3000 pixels, in strips, whose 18 million bytes are there twice in memory."""

    @pytest.fixture
    def run(self, tmp_path, student):
        tifffile.imwrite(tmp_path / "a.tif", noise(2000, 3000), photometric="rgb", compression="zlib")
        dehazer = famkern.Dehazer(student, scale=6)

        def run(name="out.tif", **options):
            options = Options(**options)
            (outcome,) = dehaze_files(
                plan_jobs([tmp_path / "a.tif"], tmp_path / name, options=options), dehazer, options
            )
            return outcome

        return run

    @pytest.fixture
    def giants(self, monkeypatch):
        """Gets an entry for each use of arrays on disk."""
        seen = []
        monkeypatch.setattr(pictures, "spilled_arrays", lambda size: seen.append(size) or spilled_arrays(size))
        return seen

    def test_alone_decides(self, tmp_path, run, giants):
        assert run("a/a.tif").done
        assert not giants
        assert run("b/a.tif", memory="100MiB").done
        assert not giants
        least = int(run(memory="1MiB").problem.split("at least ")[1].split()[0])
        assert least < 50 << 20
        assert run("c/a.tif", memory=least).done
        assert giants
        whole, bounded, giant = ((tmp_path / name / "a.tif").read_bytes() for name in "abc")
        assert whole == bounded == giant

    @pytest.mark.parametrize("options", [{"compare": True}, {"transmission": True}, {"format": "png"}])
    def test_what_cannot_be_done_in_rows_is_one_line(self, run, giants, options):
        outcome = run("out", memory="50MiB", **options)
        assert "needs a memory bound of at least" in outcome.problem
        assert not giants

    def test_a_dry_run_says_how_much_disk_it_takes(self, tmp_path, run, capsys):
        outcome = run(memory="50MiB", dry_run=True)
        assert outcome.done
        assert 36e6 <= outcome.disk <= 50e6
        Report(dry_run=True).add(outcome)
        assert "out.tif (" in (line := capsys.readouterr().out)
        assert line.endswith(" MiB on disk meanwhile)\n")
        assert run(dry_run=True).disk == 0
        assert not (tmp_path / "out.tif").exists()

    def test_no_room_on_disk_is_said_before(self, run, giants, monkeypatch):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**7}))
        outcome = run(memory="50MiB", dry_run=True)
        assert "MiB on disk" in outcome.problem

    def test_whatever_fails_leaves_nothing_behind(self, tmp_path, run, giants, spill, monkeypatch):
        before = {path.name for path in tmp_path.iterdir()}

        def fail(*arguments, **options):
            assert not list(spill.iterdir())  # has no name
            raise KeyboardInterrupt

        monkeypatch.setattr(famkern.Dehazer, "stream", fail)
        with pytest.raises(KeyboardInterrupt):
            run(memory="50MiB")
        monkeypatch.undo()
        assert {path.name for path in tmp_path.iterdir()} == before

    def test_a_damaged_strip_is_one_line(self, tmp_path, run, giants):
        path = tmp_path / "a.tif"
        with tifffile.TiffFile(path) as file:
            place = file.pages[0].dataoffsets[-2]
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\xff" * 99)
        outcome = run(memory="50MiB")
        assert giants
        assert outcome.problem.startswith(f"{path}: damaged")
        assert "\n" not in outcome.problem
        assert not (tmp_path / "out.tif").exists()


PROGRAM = """
    import pathlib, sys
    import numpy as np
    import torch
    import famkern
    from famkern import batch, models
    from famkern.engine import disk

    def status(name):
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    source, target, memory, scale = sys.argv[1:]
    disk.IN_MEMORY = set()
    dehazer = famkern.Dehazer(models.Student(16, 1, 1), scale=int(scale), threads=1)
    options = batch.Options(memory=memory)
    jobs = batch.plan_jobs([source], target, options=options)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    (outcome,) = batch.dehaze_files(jobs, dehazer, options)
    print(outcome.problem or status("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks cannot be measured here")
@pytest.mark.parametrize(("scale", "nodata"), [(1, True), (2, False)])
def test_the_peak_of_memory_stays_below_the_bound(tmp_path, scale, nodata):
    samples = noise(2000, 3000, dtype=U16)
    samples[500:1500, 100:1900] = 0
    tags = [(42113, 2, 0, "0", True)] if nodata else []
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", compression="zlib", extratags=tags)
    bound = 72 << 20
    assert 2 * samples.nbytes + images.WORKSPACE_BYTES > bound
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), tmp_path / "a.tif", tmp_path / "b.tif", bound, scale]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) <= bound
