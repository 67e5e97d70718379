"""Many files in, many files out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import famkern
from famkern import images
from famkern.batch import Options, Skip, dehaze_files, plan_jobs
from famkern.models import Student

from .files import names, picture, run


def test_a_file_to_a_file(tmp_path, dehazer):
    source = picture(tmp_path / "hazy.png")
    assert run([source], tmp_path / "clear.png", dehazer) == ["done"]
    expected = dehazer(np.asarray(Image.open(source)))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "clear.png")), expected)


def test_a_file_to_a_folder_that_is_created(tmp_path, dehazer):
    assert run([picture(tmp_path / "a.png")], tmp_path / "new/folder", dehazer) == ["done"]
    assert names(tmp_path / "new") == ["folder/a.png"]


def test_a_folder_whose_name_looks_like_a_picture_stays_a_folder(tmp_path, dehazer):
    (tmp_path / "out.png").mkdir()
    run([picture(tmp_path / "a.png")], tmp_path / "out.png", dehazer)
    assert names(tmp_path / "out.png") == ["a.png"]


def test_folders_files_and_patterns(tmp_path, dehazer):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/B.JPG")
    picture(tmp_path / "in/sub/c.png")
    (tmp_path / "in/notes.txt").write_text("no picture")
    picture(tmp_path / "d1.png")
    picture(tmp_path / "d2.png")
    assert run([tmp_path / "in", tmp_path / "d?.png"], tmp_path / "out", dehazer) == ["done"] * 4
    assert names(tmp_path / "out") == ["B.JPG", "a.png", "d1.png", "d2.png"]
    assert run([tmp_path / "in"], tmp_path / "deep", dehazer, recursive=True) == ["done"] * 3
    assert names(tmp_path / "deep") == ["B.JPG", "a.png", "sub/c.png"]


def test_outputs_inside_the_input_folder_are_no_inputs(tmp_path, dehazer):
    picture(tmp_path / "a.png")
    assert run([tmp_path], tmp_path / "out", dehazer, recursive=True) == ["done"]
    assert run([tmp_path], tmp_path / "out", dehazer, recursive=True, overwrite=True) == ["done"]
    assert names(tmp_path) == ["a.png", "out/a.png"]


def test_names_carry_suffix_and_format(tmp_path, dehazer):
    run([picture(tmp_path / "a.png")], tmp_path / "out", dehazer, suffix="_clear", format="tiff")
    assert names(tmp_path / "out") == ["a_clear.tiff"]
    assert images.header(tmp_path / "out/a_clear.tiff").format == "TIFF"


def test_existing_outputs_are_skipped_unless_told_otherwise(tmp_path, dehazer):
    source = picture(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_text("mine")
    assert run([source], tmp_path / "out", dehazer) == [Skip.THERE]
    assert (tmp_path / "out/a.png").read_text() == "mine"
    assert run([source], tmp_path / "out", dehazer, overwrite=True) == ["done"]
    assert Image.open(tmp_path / "out/a.png").size == (13, 9)


def test_an_empty_file_or_a_folder_in_the_output_s_place_is_no_output(tmp_path, dehazer):
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    (tmp_path / "out/b.png").mkdir(parents=True)
    (tmp_path / "out/a.png").touch()
    done, problem = run(sources, tmp_path / "out", dehazer)
    assert done == "done"
    assert images.header(tmp_path / "out/a.png").width == 13
    assert problem.startswith(f"{tmp_path}/out/b.png: is a folder")


def test_whatever_goes_wrong_with_a_file_the_others_are_done(tmp_path, dehazer, monkeypatch):
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    read, problems = images.read, [KeyError("odd"), AssertionError()]
    monkeypatch.setattr(images, "read", lambda *a, **k: read(*a, **k) if not problems else throw(problems.pop()))
    assert run([*sources, picture(tmp_path / "c.png")], tmp_path / "out", dehazer) == [
        f"{sources[0]}: AssertionError",
        f"{sources[1]}: 'odd'",
        "done",
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16, np.float32])
def test_a_mask_says_where_and_how_much(tmp_path, dehazer, dtype, depth):
    rng = np.random.default_rng(1)
    hazy = rng.integers(0, np.iinfo(dtype).max, (9, 13, 3), dtype, endpoint=True)
    weights = rng.random((9, 13)).astype(np.float32)
    weights[:3], weights[6:] = 0, 1
    mask = weights if depth == np.float32 else np.rint(weights * np.iinfo(depth).max).astype(depth)
    images.write(tmp_path / "a.tif", images.Picture(hazy))
    images.write(tmp_path / "mask.tif", images.Picture(np.repeat(mask[..., None], 3, 2), grey=True))
    assert run([tmp_path / "a.tif"], tmp_path / "out", dehazer, mask=tmp_path / "mask.tif") == ["done"]
    result, full = images.read(tmp_path / "out/a.tif").pixels, dehazer(hazy)
    assert np.array_equal(result[:3], hazy[:3])
    assert np.array_equal(result[6:], full[6:])
    weight = mask[..., None].astype(np.float64) / (1 if depth == np.float32 else np.iinfo(depth).max)
    assert np.abs(result - (hazy + weight * (full.astype(float) - hazy))).max() <= 0.5 + 1e-6


def test_a_mask_that_does_not_fit_is_one_line(tmp_path, dehazer):
    sources = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (9, 13))]
    Image.new("L", (9, 13), 255).save(tmp_path / "mask.png")
    (line, done) = run(sources, tmp_path / "out", dehazer, mask=tmp_path / "mask.png")
    assert line == (
        f"{sources[0]}: the mask {tmp_path}/mask.png has 9 x 13 pixels, but this picture has 13 x 9; scale the mask to that"
    )
    assert done == "done"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_mask_that_is_none_is_refused_before_anything_is_computed(tmp_path, dehazer, dry_run):
    source = picture(tmp_path / "a.png")
    picture(tmp_path / "colour.png")
    Image.new("LA", (13, 9)).save(tmp_path / "alpha.png")
    (tmp_path / "cut.png").write_bytes(source.read_bytes()[:-60])
    options = {"dry_run": dry_run}
    for path, reason in (("colour.png", "has colours"), ("alpha.png", ""), ("cut.png", ""), ("missing.png", "")):
        with pytest.raises(images.ImageError, match=f"{path}.*{reason}"):
            dehaze_files([], dehazer, Options(mask=tmp_path / path, **options))


def test_a_mask_counts_in_the_memory_bound(tmp_path, dehazer):
    source = picture(tmp_path / "a.png", (600, 400))
    Image.new("L", (600, 400), 255).save(tmp_path / "mask.png")
    least = [
        int(run([source], tmp_path / "out", dehazer, memory=1, mask=mask)[0].split("at least ")[1].split()[0])
        for mask in (None, tmp_path / "mask.png")
    ]
    assert least[1] >= least[0] + 600 * 400
    assert run([source], tmp_path / "out", dehazer, memory=least[1], mask=tmp_path / "mask.png") == ["done"]


def test_what_a_dead_run_left_goes_also_where_all_is_there_already(tmp_path, dehazer):
    source = picture(tmp_path / "a.png")
    run([source], tmp_path / "out", dehazer)
    (tmp_path / "out/.famkern-0123.part").touch()
    run([source], tmp_path / "out", dehazer, dry_run=True)
    assert (tmp_path / "out/.famkern-0123.part").exists()
    run([source], tmp_path / "out", dehazer)
    assert os.listdir(tmp_path / "out") == ["a.png"]


def test_a_folder_that_cannot_be_made_is_one_line_with_advice(tmp_path, dehazer, monkeypatch):
    def refused(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    jobs = plan_jobs([picture(tmp_path / "a.png")], tmp_path / "out")
    monkeypatch.setattr(Path, "mkdir", refused)
    (outcome,) = dehaze_files(jobs, dehazer)
    assert outcome.problem == (
        f"{tmp_path}/out: cannot be written (No such file or directory); check the folder, its permissions and the disk"
    )


def test_time_is_kept_if_asked_for(tmp_path, dehazer):
    source = picture(tmp_path / "a.png")
    os.utime(source, ns=(10**18, 10**18 + 123))
    run([source], tmp_path / "out", dehazer, compare=True, keep_time=True)
    run([source], tmp_path / "new", dehazer)
    times = [(tmp_path / name).stat().st_mtime_ns for name in ("out/a.png", "out/a-compare.jpg")]
    assert times == [10**18 + 123] * 2
    assert (tmp_path / "new/a.png").stat().st_mtime_ns > 10**18 + 10**9


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_known_before_is_refused_before_anything_is_computed(tmp_path, dehazer, monkeypatch, dry_run):
    def compute(*args, **kwargs):
        raise AssertionError("computed")

    Image.new("RGBA", (13, 9)).save(tmp_path / "transparent.png")
    Image.new("RGB", (70_000, 1)).save(tmp_path / "wide.png")
    images.write(
        tmp_path / "wordy.png",
        images.Picture(np.zeros((9, 13, 3), np.uint8), metadata=images.Metadata(xmp=b"<x/>" + b" " * 70_000)),
    )
    fine = picture(tmp_path / "a.png")
    (tmp_path / "out/a.jpg").mkdir(parents=True)
    (tmp_path / "comparing/a-compare.jpg").mkdir(parents=True)
    monkeypatch.setattr(type(dehazer), "stream", compute)
    monkeypatch.setattr(images, "read", compute)
    for source, reason in (
        ("transparent.png", "JPEG holds no transparency"),
        ("wide.png", "JPEG ends at 65,500 a side"),
        ("wordy.png", "XMP data of 70,004 bytes"),
        ("a.png", "a.jpg: is a folder"),
    ):
        (line,) = run([tmp_path / source], tmp_path / "out", dehazer, format="jpg", dry_run=dry_run)
        assert reason in line
    (line,) = run([fine], tmp_path / "comparing", dehazer, compare=True, dry_run=dry_run)
    assert "a-compare.jpg: is a folder" in line
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    (line,) = run([fine], tmp_path / "new/folder", dehazer, dry_run=dry_run)
    assert line == (
        f"{tmp_path}/new/folder/a.png: cannot be written ({tmp_path} is read-only or not yours); "
        "check the folder, its permissions and the disk"
    )
    assert not (tmp_path / "new").exists()


def test_a_read_only_folder_is_known_beforehand(tmp_path):
    """Asked by somebody who may not write there, which root may: then without that right."""
    ordinary = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override"]
    if ordinary and (not shutil.which(ordinary[0]) or subprocess.run([*ordinary, "true"], check=False).returncode):
        pytest.skip("needs setpriv (util-linux) and the right to give up rights")
    (tmp_path / "locked").mkdir(mode=0o555)
    program = "import sys; from famkern import images; images.check_writable(sys.argv[1])"
    command = [*ordinary, sys.executable, "-c", program, str(tmp_path / "locked/new/a.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"cannot be written ({tmp_path / 'locked'} is read-only or not yours)" in result.stderr


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, dehazer):
    (tmp_path / "out").mkdir()
    source = picture(tmp_path / "a.png")
    program = (
        "import os, sys; from famkern import images\n"
        "with images.replacing(sys.argv[1]) as file: file.write(b'half'); file.flush(); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out/b.png")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        (part,) = names(tmp_path / "out")
        assert run([source], tmp_path / "out", dehazer) == ["done"]
        assert names(tmp_path / "out") == [part, "a.png"]  # its writer is alive
        writer.kill()
    picture(tmp_path / "c.png")
    assert run([tmp_path / "c.png"], tmp_path / "out", dehazer) == ["done"]
    assert names(tmp_path / "out") == ["a.png", "c.png"]


def throw(error):
    raise error


def test_compare_writes_both_pictures_side_by_side(tmp_path, dehazer):
    run([picture(tmp_path / "a.png", (100, 60))], tmp_path / "out", dehazer, compare=True)
    assert names(tmp_path / "out") == ["a-compare.jpg", "a.png"]
    width, height = Image.open(tmp_path / "out/a-compare.jpg").size
    assert height == 60
    assert width >= 200


def test_a_file_that_fails_is_one_line_and_the_others_are_done(tmp_path, dehazer):
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "z.png")]
    whole = picture(tmp_path / "whole.png").read_bytes()
    bad = {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "text.jpg": b"no picture at all",
        "huge.png": whole[:16] + (1 << 20).to_bytes(4, "big") * 2 + whole[24:],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    inputs = [good[0], tmp_path / "missing.png", *(tmp_path / name for name in bad), tmp_path / "*.none", good[1]]
    outcomes = run(inputs, tmp_path / "out", dehazer)
    assert outcomes[0] == outcomes[-1] == "done"
    for path, line in zip(inputs[1:-1], outcomes[1:-1], strict=True):
        assert line.startswith(str(path))
        assert "\n" not in line
    assert names(tmp_path / "out") == ["a.png", "z.png"]


def test_an_output_never_replaces_an_input_or_another_output(tmp_path, dehazer):
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", seed=1)
    before = a.read_bytes(), b.read_bytes()
    assert "is itself" in run([a], tmp_path, dehazer, overwrite=True)[0]
    assert "is itself" in run([a], a, dehazer, overwrite=True)[0]
    (tmp_path / "link.png").symlink_to(a)
    assert "is itself" in run([a], tmp_path / "link.png", dehazer, overwrite=True)[0]
    picture(tmp_path / "sub/a.png")
    assert "is another input" in run([tmp_path / "sub/a.png", a], tmp_path, dehazer, overwrite=True)[0]
    twice = run([tmp_path / "sub/a.png", a], tmp_path / "out", dehazer)
    assert twice[0] == "done"
    assert "already that of" in twice[1]
    assert (a.read_bytes(), b.read_bytes()) == before


def test_an_unwritable_output_is_one_line(tmp_path, dehazer):
    (tmp_path / "file").write_text("")
    source = picture(tmp_path / "a.png")
    (line,) = run([source], tmp_path / "file/sub", dehazer)
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("output", ["b.png", "notes.txt"])
def test_an_output_that_cannot_hold_the_inputs_is_wrong_usage(tmp_path, output):
    (tmp_path / "notes.txt").write_text("")
    inputs = [picture(tmp_path / "a1.png"), picture(tmp_path / "a2.png")]
    with pytest.raises(ValueError, match="the output is a folder"):
        plan_jobs(inputs, tmp_path / output)


@pytest.mark.parametrize(
    "wrong",
    [{"format": "gif"}, {"quality": 0}, {"quality": 101}, {"max_pixels": 0}, {"memory": "x"}, {"suffix": "a/b"}],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"is (one|a|part)"):
        Options(**wrong)


def test_the_pixel_limit_is_an_option(tmp_path, dehazer):
    source = picture(tmp_path / "a.png")
    (line,) = run([source], tmp_path / "out", dehazer, max_pixels=100)
    assert line.startswith(f"{source}: ")
    assert "117" in line


def test_the_memory_bound_covers_the_picture_too(tmp_path, dehazer):
    source = picture(tmp_path / "a.png", (3000, 2000))
    assert run([source], tmp_path / "out", dehazer, memory="256MiB") == ["done"]
    assert run([source], tmp_path / "free", dehazer) == ["done"]
    assert np.abs(pixels(tmp_path / "out/a.png") - pixels(tmp_path / "free/a.png")).max() <= 1
    (line,) = run([source], tmp_path / "low", dehazer, memory="20MiB")
    assert line.startswith(f"{source}: ")
    assert "needs a memory bound of at least" in line


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_floating_point_picture_out_of_range_is_one_line(tmp_path, dehazer):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.full((5, 5, 3), 2, np.float32), photometric="rgb")
    (line,) = run([tmp_path / "a.tif"], tmp_path / "out", dehazer)
    assert line.startswith(str(tmp_path / "a.tif"))
    assert not (tmp_path / "out").exists() or not names(tmp_path / "out")


def test_a_comparison_never_replaces_an_input_or_an_existing_file(tmp_path, dehazer):
    source = picture(tmp_path / "b-compare.jpg")
    before = source.read_bytes()
    assert "is itself" in run([source], tmp_path / "b.jpg", dehazer, compare=True)[0]
    assert source.read_bytes() == before
    other = picture(tmp_path / "c.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/c-compare.jpg").write_text("mine")
    assert run([other], tmp_path / "out", dehazer, compare=True) == ["done"]
    assert (tmp_path / "out/c-compare.jpg").read_text() == "mine"
    assert names(tmp_path / "out") == ["c-compare.jpg", "c.png"]


def test_a_comparison_is_made_up_for(tmp_path, dehazer):
    source = picture(tmp_path / "a.png")
    assert run([source], tmp_path / "out", dehazer) == ["done"]
    stamp = (tmp_path / "out/a.png").stat().st_mtime_ns
    assert run([source], tmp_path / "out", dehazer, compare=True) == ["done"]
    assert names(tmp_path / "out") == ["a-compare.jpg", "a.png"]
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == stamp


def test_a_second_run_finds_its_outputs_and_does_nothing(tmp_path, dehazer):
    picture(tmp_path / "g/a.png")
    picture(tmp_path / "g/b.png")
    for _ in range(2):  # as the shell expands g/*: the second time with g/out
        seen = run(sorted((tmp_path / "g").iterdir()), tmp_path / "g/out", dehazer)
        assert set(seen) == ({"done"} if _ == 0 else {Skip.THERE, Skip.FOLDER})
    assert set(run([tmp_path / "g/**/*.png"], tmp_path / "g/out", dehazer, recursive=True)) == {Skip.THERE}
    assert names(tmp_path / "g") == ["a.png", "b.png", "out/a.png", "out/b.png"]
    picture(tmp_path / "e/a.png")
    assert run([tmp_path / "e"], tmp_path / "e", dehazer, suffix="-clear") == ["done"]
    assert run([tmp_path / "e"], tmp_path / "e", dehazer, suffix="-clear") == [Skip.OUTPUT, Skip.THERE]
    assert run([tmp_path / "e"], tmp_path / "e", dehazer, suffix="-clear", overwrite=True) == [Skip.OUTPUT, "done"]
    assert names(tmp_path / "e") == ["a-clear.png", "a.png"]


def test_odd_names_are_one_line_and_the_others_are_done(tmp_path, dehazer):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    inputs = [tmp_path / ("x" * 300 + ".png"), tmp_path / "loop.png", picture(tmp_path / "a.png")]
    *failed, done = run(inputs, tmp_path / "out", dehazer)
    assert done == "done"
    assert all("\n" not in line and "no such file" in line for line in failed)


@pytest.mark.parametrize(("inputs", "output"), [([""], "out"), (["a.png"], "")])
def test_an_empty_name_is_wrong_usage(inputs, output):
    with pytest.raises(ValueError, match="an empty name"):
        plan_jobs(inputs, output)


@pytest.mark.parametrize(("compare", "scale"), [(False, 1), (True, 1), (False, 2), (True, 8)])
def test_the_least_bound_that_an_error_states_is_enough(tmp_path, compare, scale):
    dehazer = famkern.Dehazer(Student(16, 1, 1), scale=scale)
    source = picture(tmp_path / "wide.png", (6000, 20))
    (line,) = run([source], tmp_path / "out", dehazer, memory="1MiB", compare=compare)
    least = int(line.split("at least ")[1].split()[0])
    assert run([source], tmp_path / "out", dehazer, memory=least, compare=compare) == ["done"]


def test_progress_names_the_job(tmp_path, dehazer):
    jobs = plan_jobs([picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], tmp_path / "out")
    seen = []
    list(dehaze_files(jobs, dehazer, progress=lambda job, fraction: seen.append((job, fraction))))
    assert {job for job, _ in seen} == set(jobs)
    assert seen[-1] == (jobs[1], 1.0)


def test_an_interrupt_leaves_nothing_half_written(tmp_path, dehazer):
    jobs = plan_jobs([picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], tmp_path / "out")

    def interrupt(job, fraction):
        if job is jobs[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(dehaze_files(jobs, dehazer, progress=interrupt))
    assert names(tmp_path / "out") == ["a.png"]


def test_paths_may_be_text(tmp_path, dehazer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(Path("a.png").absolute())
    assert run(["a.png"], "out", dehazer) == ["done"]
