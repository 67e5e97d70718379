"""Film files: what comes out has all that went in, is whole or not there, and shows what `dehaze_frames` gives."""

import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from famkern import Dehazer, batch, cli, images, video
from famkern.models import Student
from famkern.video.film import ahead
from famkern.video.reading import opened, read

av = pytest.importorskip("av", reason="needs PyAV (pip install 'famkern[video]')")

RATE, TICKS = 24, 1000  # frames a second, ticks a frame
SIZE = (48, 64)


@pytest.fixture(scope="module")
def dehazer():
    torch.manual_seed(0)
    return Dehazer(Student(16, 2, 1))


def picture(index, size=SIZE):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([(3 * x + 2 * index) % 256, 4 * y % 256, (x + y + index) % 256], -1).astype(np.uint8) // 2 + 90


def clip(path, *, codec="libx264", pixels="yuv420p", colours=(1, 1, 1, 1), pts=range(0, 12 * TICKS, TICKS), audio=False,
         rotation=None, size=SIZE, metadata=None):  # fmt: skip
    """A film of these frames; colours: range, matrix, primaries and transfer as FFmpeg numbers them."""
    options = {"movflags": "+use_metadata_tags"} if metadata else {}
    with av.open(str(path), "w", container_options=options) as out:
        stream = out.add_stream(
            codec, rate=RATE, options={"x265-params": "log-level=error"} if codec == "libx265" else {}
        )
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pixels
        context = stream.codec_context
        context.time_base = Fraction(1, RATE * TICKS)
        context.flags |= av.codec.context.Flags.frame_duration
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = colours
        if rotation:
            stream.set_display_rotation(rotation)
        sound = out.add_stream("aac", rate=48000) if audio else None
        out.metadata.update(metadata or {"title": "A film"})
        if audio:
            out.set_chapters(
                [{"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
            )
        for index, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(index, size), "rgb24")
            frame = frame.reformat(
                format=pixels, dst_colorspace=colours[1], src_color_range=2, dst_color_range=colours[0]
            )
            frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc = colours
            frame.pts, frame.time_base, frame.duration = time, Fraction(1, RATE * TICKS), TICKS
            out.mux(stream.encode(frame))
        if sound:
            for index in range(12):
                tone = np.sin(np.arange(1024) / 20 + index)[None].astype(np.float32)
                block = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
                block.sample_rate, block.pts = 48000, 1024 * index
                out.mux(sound.encode(block))
            out.mux(sound.encode(None))
        out.mux(stream.encode(None))
    return path


def told(path):
    """What a film says of itself, and its sound."""
    with av.open(str(path)) as film:
        frames = list(film.decode(film.streams.video[0]))
        first = frames[0]
        says = {
            "times": [frame.pts * frame.time_base for frame in frames],
            "format": first.format.name,
            "colours": (first.color_range, first.colorspace, first.color_primaries, first.color_trc),
            "rotation": first.rotation,
            "codec": film.streams.video[0].codec_context.name,
            "metadata": {key: value for key, value in film.metadata.items() if key.lower() != "encoder"},
            "chapters": [(each["start"] * each["time_base"], each["metadata"]) for each in film.chapters()],
        }
    with av.open(str(path)) as film:
        says["sound"] = [bytes(packet) for packet in film.demux() if packet.stream.type == "audio"]
    return says


def pixels_of(path):
    header = video.read_header(path)
    with opened(path) as container:
        return [item.pixels for item in read(header, container) if isinstance(item, video.Frame)]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("phone.mp4", {"pts": [0, 1000, 2500, 2700, 6000], "rotation": 90, "audio": True}),
        ("camera.mov", {"codec": "libx265", "pixels": "yuv420p10le", "colours": (1, 9, 9, 16),
                        "metadata": {"com.apple.quicktime.make": "Someone"}}),
        ("full.mkv", {"pixels": "yuv422p", "colours": (2, 5, 5, 6), "audio": True}),
        ("page.webm", {"codec": "libvpx-vp9", "size": (47, 63)}),
    ],
)  # fmt: skip
def test_a_film_stays_what_it_was(dehazer, tmp_path, name, given):
    source, target, fractions = clip(tmp_path / name, **given), tmp_path / f"clear-{name}", []
    video.dehaze_film(source, target, dehazer, progress=fractions.append)
    assert told(target) == told(source)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert {path.name for path in tmp_path.iterdir()} == {name, target.name}


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv444p", "gray"])
def test_pixels_that_nothing_changes_are_the_same_numbers(tmp_path, pixels):
    source, target = clip(tmp_path / "a.mkv", codec="ffv1", pixels=pixels, pts=[0, 1000]), tmp_path / "b.mkv"
    video.dehaze_film(source, target, Dehazer(Student(16, 1, 1), strength=0), codec="ffv1")
    frames = []
    for path in (source, target):
        with av.open(str(path)) as film:
            frames.append([frame.to_ndarray() for frame in film.decode(video=0)])
    assert len(frames[0]) == 2
    assert all(map(np.array_equal, *frames))


def test_its_frames_are_those_of_dehaze_frames(dehazer, tmp_path):
    source, target = clip(tmp_path / "a.mkv", codec="ffv1", pixels="bgr0", colours=(2, 0, 1, 13)), tmp_path / "b.mkv"
    video.dehaze_film(source, target, dehazer, codec="ffv1")
    before, after = pixels_of(source), pixels_of(target)
    assert np.array_equal(before[3], picture(3))
    assert all(map(np.array_equal, after, video.dehaze_frames(before, dehazer)))
    assert not np.array_equal(before[3], after[3])


def run(sources, target, dehazer, **options):
    options = batch.Options(**options)
    return list(batch.dehaze_files(batch.plan_jobs(sources, target, options=options), dehazer, options))


def test_the_command_takes_films(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "a.mp4", pts=[0, 1000])
    with pytest.raises(SystemExit) as end:
        cli.app(["dehaze", "a.mp4", "-o", "b.mkv", "--scale", "2", "--codec", "hevc", "--crf", "30"])
    assert not end.value.code
    assert told("b.mkv")["codec"] == "hevc"


def test_films_and_pictures_go_together_and_bad_ones_are_lines(dehazer, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    clip(folder / "a.mp4")
    images.write(folder / "b.png", images.Picture(picture(0)))
    (folder / "c.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    clip(folder / "d.mp4", size=(64, 80))
    whole = clip(tmp_path / "whole.mkv", codec="ffv1").read_bytes()
    (folder / "e.avi").write_bytes(whole[: len(whole) // 2])  # cut short, and named otherwise: what can be read is
    done = run([folder], tmp_path / "out", dehazer, memory="200MiB", crf=35)
    problems = [outcome.problem for outcome in done if outcome.problem]
    assert [line.startswith(f"{folder / 'c.mp4'}: cannot be read as a film (") for line in problems] == [True]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mp4", "b.png", "d.mp4", "e.mkv"}
    assert 0 < len(pixels_of(tmp_path / "out" / "e.mkv")) < 12


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("b.mp4", {"codec": "nonsense"}, "b.mp4: there is no encoder nonsense here; choose another --codec"),
        ("b.webm", {}, "b.webm: .webm has no place for audio aac; choose .mkv"),
        ("b.mp4", {"compare": True}, "a.mp4: --compare is for pictures; dehaze films without it"),
        ("b.mp4", {"memory": "10MiB"}, "a film of 64 x 48 pixels"),
        ("b.mp4", {"max_pixels": 3000}, "a.mp4: has frames of 64 x 48 pixels; --max-pixels allows 3000"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(dehazer, tmp_path, name, options, problem):
    source = clip(tmp_path / "a.mp4", audio=True, pts=[0, 1000])
    (outcome,) = run([source], tmp_path / name, dehazer, **options)
    assert problem in outcome.problem
    assert "\n" not in outcome.problem
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_makes_no_sense_is_wrong_usage(tmp_path):
    source = clip(tmp_path / "a.mp4", pts=[0])
    with pytest.raises(ValueError, match=r"a film is written as one of \.mp4"):
        batch.plan_jobs([source], tmp_path / "b.png")
    with pytest.raises(ValueError, match="a picture does not become a film"):
        batch.plan_jobs([tmp_path / "a.png"], tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="crf is for the codecs h264"):
        batch.Options(codec="ffv1", crf=20)


def test_an_interrupt_ends_the_threads_and_leaves_nothing(dehazer, tmp_path):
    source, before = clip(tmp_path / "a.mp4"), threading.active_count()

    def interrupt(_fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.dehaze_film(source, tmp_path / "b.mp4", dehazer, progress=interrupt)
    assert threading.active_count() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


class Counting(Dehazer):
    """Counts the frames that it is given."""

    frames = 0

    def frame(self, *given, **options):
        self.frames += 1
        return super().frame(*given, **options)


def stopped_after(count):
    """A progress function by which a run ends, as by a signal, when so many frames are encoded."""
    calls = iter(range(1, count + 1))

    def progress(_fraction):
        if next(calls) == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("name", "codec", "given"),
    [
        ("b.mp4", "h264", {"pts": [0, 1000, 2500, 2700, 6000, 6001, 6002, 9000, 19000, 19001, 29000, 39000],
                          "audio": True}),
        ("b.mkv", "hevc", {"pixels": "yuv420p10le"}),
        ("b.webm", "vp9", {"codec": "libvpx-vp9"}),
        ("b.mkv", "av1", {"size": (64, 80)}),
        ("b.mov", "mpeg4", {}),
    ],
)  # fmt: skip
def test_a_film_goes_on_where_it_was_stopped(tmp_path, monkeypatch, name, codec, given):
    monkeypatch.setattr("famkern.video.film.SEGMENT", 4)
    torch.manual_seed(0)
    dehazer = Counting(Student(16, 2, 1))
    source, target, whole = clip(tmp_path / f"a{name[1:]}", **given), tmp_path / name, tmp_path / f"whole-{name}"
    video.dehaze_film(source, whole, dehazer, codec=codec)
    assert dehazer.frames == 12
    assert told(whole)["times"] == told(source)["times"]
    for count in (5, 6, 12):
        with pytest.raises(KeyboardInterrupt):
            video.dehaze_film(source, target, dehazer, codec=codec, progress=stopped_after(count))
        assert not target.exists()
    dehazer.frames = 0
    video.dehaze_film(source, target, dehazer, codec=codec)
    assert dehazer.frames == 4
    assert target.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {source.name, name, whole.name}


def test_what_another_run_left_is_not_used(dehazer, tmp_path, monkeypatch):
    monkeypatch.setattr("famkern.video.film.SEGMENT", 4)
    source, target, whole = clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", tmp_path / "whole.mp4"
    torch.manual_seed(1)
    for other, options in ((dehazer, {"crf": 40}), (dehazer, {"weight": 1.0}), (Dehazer(Student(16, 2, 1)), {})):
        with pytest.raises(KeyboardInterrupt):
            video.dehaze_film(source, target, other, progress=stopped_after(9), **options)
        assert {path.suffix for path in (tmp_path / ".b.mp4.segments").iterdir()} == {".packets", ".safetensors"}
    for path in (target, whole):
        video.dehaze_film(source, path, dehazer)
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_dehazer_is_known_by_what_decides_its_results(dtype):
    torch.manual_seed(0)
    network = Student(16, 2, 1).to(dtype)
    known = Dehazer(network).identity()
    assert Dehazer(network, memory="1GiB", threads=1).identity() == known
    others = [Dehazer(Student(16, 2, 1).to(dtype)), Dehazer(network, strength=0.5), Dehazer(network, scale=2)]
    assert len({known, *(other.identity() for other in others)}) == 4


def test_a_film_that_is_bad_in_the_middle_leaves_nothing(dehazer, tmp_path, monkeypatch):
    monkeypatch.setattr("famkern.video.film.SEGMENT", 4)
    source, frames = clip(tmp_path / "a.mp4"), iter(range(20))

    def size(frame):
        if next(frames) == 9:
            raise images.ImageError("a.mp4: has frames of other sizes")
        return frame

    monkeypatch.setattr("famkern.video.reading.Frame", lambda *values: size(video.Frame(*values)))
    with pytest.raises(images.ImageError, match="other sizes"):
        video.dehaze_film(source, tmp_path / "b.mp4", dehazer)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_in_a_thread_comes_where_its_item_would():
    def items():
        yield 1
        raise OSError("the disk is gone")

    made = ahead(items(), 4)
    assert next(made) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(made)


def test_without_pyav_a_film_is_a_line_that_says_how_to_install_it(dehazer, tmp_path, monkeypatch):
    source = clip(tmp_path / "a.mp4", pts=[0])
    monkeypatch.setitem(sys.modules, "av", None)
    (outcome,) = run([source], tmp_path / "b.mp4", dehazer)
    assert outcome.problem == f"{source}: needs PyAV, which is not installed: pip install 'famkern[video]'"
