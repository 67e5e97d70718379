"""Which files the inputs stand for: each is to be done, skipped for a stated reason, or a problem."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from famkern import video
from famkern.batch import Options, Skip, plan_jobs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names):
    for name in names:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(name)


def plan(*inputs, to, recursive=False, **options):
    """Source to what will become of it: the output's name, why it is skipped, or the problem."""
    jobs = plan_jobs(inputs, to, recursive=recursive, options=Options(**options))
    return [(str(job.source), job.problem or job.skip or str(job.target)) for job in jobs]


def write_outputs(*inputs, to, recursive=False, **options):
    """As a run would, with what it finds now."""
    for job in plan_jobs(inputs, to, recursive=recursive, options=Options(**options)):
        if not (job.problem or job.skip):
            make(*map(str, job.outputs))


class TestTheOutputFolderAboveOrEqualToTheInputs:
    @pytest.mark.parametrize("inputs", [["photos"], ["photos/*.png"], ["photos/a.png", "photos/b.png"], ["p*/*.png"]])
    @pytest.mark.parametrize("to", [".", "", "../{here}", "absolute"])
    def test_above(self, here, inputs, to):
        make("photos/a.png", "photos/b.png")
        to = {"": "./", "absolute": str(here)}.get(to, to).format(here=here.name)
        for _ in range(2):  # the second time with the first time's outputs beside photos/
            planned = plan(*inputs, to=to)
            assert planned == [
                (f"photos/{name}.png", os.path.join(to, f"{name}.png").removeprefix("./")) for name in "ab"
            ]
            write_outputs(*inputs, to=to)

    def test_far_above_with_subfolders(self):
        make("trip/day/a.png", "trip/day/night/b.png")
        wanted = [("trip/day/a.png", "a.png"), ("trip/day/night/b.png", "night/b.png")]
        assert plan("trip/day", to=".", recursive=True) == wanted

    @pytest.mark.parametrize("inputs", [["photos"], ["photos/*.png"], ["photos/a.png"]])
    def test_equal_needs_another_name(self, inputs):
        make("photos/a.png")
        ((_, problem),) = plan(*inputs, to="photos")
        assert "is itself; choose another folder or --suffix" in problem
        assert plan(*inputs, to="photos", suffix="-x") == [("photos/a.png", "photos/a-x.png")]
        assert plan(*inputs, to="photos", format="tif") == [("photos/a.png", "photos/a.tif")]

    def test_one_of_several_folders(self):
        make("2023/a.png", "2024/b.png")
        assert plan("2023", "2024", to="2024") == [("2023/a.png", "2024/a.png"), ("2024", Skip.FOLDER)]

    def test_through_links(self):
        make("real/photos/a.png")
        os.symlink("real", "link")
        assert plan("link/photos", to="real") == [("link/photos/a.png", "real/a.png")]


class TestRerunsDoNotFeedOnTheirOutputs:
    OPTIONS = (
        {"suffix": "-x"},
        {"suffix": "-x", "compare": True},
        {"format": "tif"},
        {"format": "tif", "compare": True},
        {"suffix": ".x", "format": "webp", "compare": True},
    )

    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("inputs", [["photos"], ["photos/*.*"], ["photos/**/*.*"], ["shell"]])
    @pytest.mark.parametrize("to", ["photos", "photos/out", "."])
    def test_any_number_of_runs_finds_the_same_inputs(self, options, inputs, to):
        make("photos/a.png", "photos/b.jpg")
        for _ in range(3):
            given = sorted(f"photos/{name}" for name in os.listdir("photos")) if inputs == ["shell"] else inputs
            jobs = plan_jobs(given, to, recursive=True, options=Options(**options))
            todo = [os.path.basename(job.source) for job in jobs if not (job.skip or job.problem)]
            assert todo == ["a.png", "b.jpg"], [(job.source, job.skip or job.problem) for job in jobs]
            write_outputs(*given, to=to, recursive=True, **options)

    def test_nor_on_comparisons_once_made(self):
        make("photos/a.png")
        write_outputs("photos", to="photos", suffix="-x", compare=True)
        planned = dict(plan("photos", to="photos", suffix="-x"))
        assert planned["photos/a-x-compare.jpg"] == planned["photos/a-x.png"] == Skip.OUTPUT

    def test_pictures_of_other_origin_in_the_output_folder_are_mentioned(self):
        make("a.png", "out/a.png", "out/stray.png")
        assert plan(".", to="out", recursive=True) == [("a.png", "out/a.png"), ("out/stray.png", Skip.FOLDER)]

    @pytest.mark.parametrize("inputs", ["photos", "*/*.png"])
    def test_where_there_are_no_others_that_is_a_problem(self, inputs):
        make("photos/day/a.png")
        (problem, skipped) = plan("photos" if inputs == "photos" else "photos/*/*.png", to="photos/day", recursive=True)
        assert problem[1].startswith("photos/day: all pictures lie in the output folder; name it itself")
        assert skipped == ("photos/day/a.png", Skip.FOLDER)

    @pytest.mark.parametrize("inputs", [["a.png", "a-x.png"], ["."]])
    def test_what_may_be_an_original_is_not_overwritten_if_it_was_named(self, inputs):
        make("a.png", "a-x.png")
        planned = dict(plan(*inputs, to=".", suffix="-x"))
        assert planned == {"a.png": "a-x.png", "a-x.png": Skip.OUTPUT}
        planned = dict(plan(*inputs, to=".", suffix="-x", overwrite=True))
        assert planned["a-x.png"] == Skip.OUTPUT
        assert ("is another input" in planned["a.png"]) == (inputs != ["."])

    def test_an_original_of_another_format_is_not_overwritten(self):
        make("p/a.jpg", "p/a.png")
        planned = dict(plan("p", to="p", format="png", overwrite=True))
        assert "p/a.png is another input" in planned["p/a.jpg"]


class TestEverythingIsAccountedFor:
    def test_given_twice_is_done_once(self):
        make("p/a.png", "p/b.png")
        os.symlink("a.png", "p/link.png")
        inputs = ["p", "p/a.png", "./p/../p/b.png", "p/*.png"]
        planned = plan(*inputs, to="out")
        assert planned[:3] == [(f"p/{name}.png", f"out/{name}.png") for name in ("a", "b", "link")]
        assert [what for _, what in planned[3:]] == [Skip.TWICE] * 5
        assert plan("p/a.png", "p/a.png", to="b.png") == [("p/a.png", "b.png"), ("p/a.png", Skip.TWICE)]

    def test_formats_that_are_not_read(self):
        make("p/a.png")
        for name in ("b.gif", "c.PSD", "d.exr", "notes.txt", "._a.png", ".hidden.png", ".thumbnails/x.png"):
            os.makedirs(os.path.dirname(f"p/{name}"), exist_ok=True)
            open(f"p/{name}", "w").close()
        shutil.copy("p/a.png", "p/e")  # a picture by its content
        shutil.copy("p/a.png", "p/f.png~")
        skipped = [(f"p/{name}", Skip.FORMAT) for name in ("b.gif", "c.PSD", "d.exr", "e", "f.png~")]
        assert plan("p", to="out", recursive=True) == [("p/a.png", "out/a.png"), *skipped]

    def test_other_suffixes_of_formats_that_are_read(self):
        make("p/a.png")
        for name in ("a.MPO", "b.pjpeg", "c.dib", "d.jxl"):
            shutil.copy("p/a.png", f"p/{name}")
        os.remove("p/a.png")
        outputs = ["out/a.jpg", "out/b.jpg", "out/c.bmp", "out/d.png"]
        assert [target for _, target in plan("p", to="out")] == outputs

    @pytest.mark.parametrize("installed", [True, False])
    def test_films(self, monkeypatch, installed):
        monkeypatch.setattr(video, "is_installed", lambda: installed)
        make("p/a.png")
        for name in ("b.mp4", "c.AVI"):
            open(f"p/{name}", "w").close()
        films = [("p/b.mp4", "out/b.mp4"), ("p/c.AVI", "out/c.mkv")]
        skipped = [(name, Skip.FORMAT) for name, _ in films]
        assert plan("p", to="out", format="jpg") == [("p/a.png", "out/a.jpg"), *(films if installed else skipped)]
        assert plan("p/b.mp4", to="c.mkv") == [("p/b.mp4", "c.mkv")]  # what is named is tried

    def test_a_folder_with_nothing_to_do_is_a_problem(self):
        os.mkdir("empty")
        os.mkdir("p")
        open("p/a.gif", "w").close()
        ((_, problem),) = plan("empty", to="out")
        assert problem.startswith("empty: no images in this folder")
        (_, problem), gif = plan("p", to="out")
        assert problem.startswith("p: no images in this folder")
        assert gif == ("p/a.gif", Skip.FORMAT)

    def test_links(self):
        make("real/a.png")
        os.makedirs("p")
        os.symlink("../real", "p/sub")
        os.symlink("..", "p/circle")
        os.symlink("nowhere.png", "p/broken.png")
        planned = plan("p", to="out", recursive=True)
        assert planned == [
            ("p/broken.png", "out/broken.png"),  # reading it will say what is wrong
            ("p/circle/real/a.png", "out/circle/real/a.png"),
            ("p/sub/a.png", Skip.TWICE),
        ]

    @pytest.mark.parametrize(
        ("pattern", "output"),
        [("p/**/*.png", "a.png"), ("**/a.png", "a.png"), ("p/**", "x/a.png"), ("p/**/x/**/*.png", "a.png")],
    )
    def test_patterns_do_not_go_in_circles(self, pattern, output):
        make("p/x/a.png")
        os.symlink("../p", "p/self")
        os.symlink("..", "p/x/up")
        assert plan(pattern, to="out", recursive=True) == [("p/x/a.png", f"out/{output}")]

    def test_links_in_circles_under_a_pattern(self):
        make("d/x/a.png", "d/[b]/c/b.png")
        os.symlink(".", "d/self")
        for name in "pqrs":
            os.symlink("..", f"d/x/{name}")
        for pattern in ("d/**/*.png", "d/**/**/*.png", "**/*.png"):
            planned = dict(plan(pattern, to="out", recursive=True))
            assert planned == {"d/[b]/c/b.png": "out/b.png", "d/x/a.png": "out/a.png"}
        assert len(plan("d/**/c/*.png", to="out", recursive=True)) == 1

    def test_a_folder_that_cannot_be_opened(self, monkeypatch):
        make("p/a.png", "p/locked/b.png")
        scandir = os.scandir

        def refuse(path):
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        fine, (path, problem) = plan("p", to="out", recursive=True)
        assert fine == ("p/a.png", "out/a.png")
        assert path == "p/locked"
        assert problem == "p/locked: cannot be opened (Permission denied); check the permissions"


@pytest.mark.parametrize(
    ("to", "options", "reason"),
    [
        ("b.gif", {}, "cannot be written; choose one of .jpg"),
        ("b.HEIC", {}, "cannot be written; choose one of .jpg"),
        ("b.png", {"format": "jpg"}, "PNG by its name but --format says otherwise"),
        ("b.png", {"suffix": "-x"}, "--suffix is for outputs in a folder"),
    ],
)
def test_an_output_file_that_is_none_or_disagrees_with_the_options_is_wrong_usage(to, options, reason):
    make("a.png")
    with pytest.raises(ValueError, match=reason):
        plan("a.png", to=to, **options)


@pytest.mark.parametrize("format", ["jpg", "JPG", "jpeg", "Tiff", "png"])
def test_the_extension_is_the_format_as_given(format):
    make("a.png")
    assert plan("a.png", to="out", format=format) == [("a.png", f"out/a.{format}")]


@pytest.mark.parametrize("name", ["a.JPG", "b.Jpeg", "c.jpe", "d.TIFF", "e.PnG"])
def test_the_extension_is_the_input_s_as_it_is_written(name):
    Image.new("RGB", (2, 2)).save(name, "PNG")
    assert plan(name, to="out") == [(name, f"out/{name}")]
