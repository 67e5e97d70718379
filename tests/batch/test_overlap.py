"""Several pictures on their way at once: overlap, time limits, interruptions, and lack of memory."""

import gc
import os
import signal
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from famkern import images
from famkern.batch import dehaze_files, plan_jobs, running
from famkern.batch.pictures import Needs

from .files import names, picture, run


def out_of_memory(monkeypatch, dehazer, times):
    """As often as said."""
    call, left = type(dehazer).stream, [times]

    def fail(self, image, result, **options):
        if left[0] == 0:
            return call(self, image, result, **options)
        left[0] -= 1
        return torch.empty(10**15)

    monkeypatch.setattr(type(dehazer), "stream", fail)


def test_running_out_of_memory_is_one_line_and_the_others_are_done(tmp_path, dehazer, monkeypatch):
    jobs = plan_jobs([picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], tmp_path / "out")
    out_of_memory(monkeypatch, dehazer, 2)
    first, second = dehaze_files(jobs, dehazer)
    assert first.problem.startswith(f"{jobs[0].source}: ")
    assert "\n" not in first.problem
    assert second.done


def test_a_picture_that_ran_out_of_memory_is_done_with_less(tmp_path, dehazer, monkeypatch, caplog):
    source = picture(tmp_path / "a.png", (64, 300))
    expected = dehazer(np.asarray(Image.open(source)))
    out_of_memory(monkeypatch, dehazer, 1)
    assert run([source], tmp_path / "out", dehazer) == ["done"]
    assert f"{source}: memory did not suffice" in caplog.text
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), expected)


def test_the_first_attempt_s_memory_is_free_at_the_second(tmp_path, dehazer, monkeypatch):
    call, held = type(dehazer).stream, []

    def fail_once(self, image, result, **options):
        if not held:
            maps = np.empty(1000)
            held.append(weakref.ref(maps))
            raise MemoryError
        gc.collect()
        held.append(held[0]() is None)
        return call(self, image, result, **options)

    monkeypatch.setattr(type(dehazer), "stream", fail_once)
    assert run([picture(tmp_path / "a.png")], tmp_path / "out", dehazer) == ["done"]
    assert held[1]


@pytest.mark.parametrize(
    ("needs", "together"),
    [
        (Needs(held=30, network=30, reading=30, writing=30), True),
        (Needs(held=30, network=50, reading=30, writing=30), True),
        (Needs(held=30, network=51, reading=30, writing=30), False),
        (Needs(held=30, network=30, reading=81, writing=30), False),  # it is read while the one before is written
        (Needs(held=30, network=30, reading=30, writing=51), False),  # it is written while the next one is read
    ],
)
def test_neighbours_go_on_beside_a_picture_where_every_step_of_it_leaves_room(needs, together):
    behind = SimpleNamespace(needs=Needs(held=5, network=0, reading=0, writing=5))
    following = SimpleNamespace(needs=Needs(held=0, network=0, reading=10, writing=0))
    memory, beside = running._share(100, [behind], SimpleNamespace(needs=needs), following)
    assert beside == together
    assert memory == (50 if together else 70)


class TestOverlap:
    """The picture before is written, and the one after read, while one is dehazed."""

    COUNT = 3

    def run(self, tmp_path, dehazer, monkeypatch, read, write, call, memory=None):
        """With these in place of reading, writing and dehazing; the pictures are as if done one by one."""
        originals = images.read, images.write, type(dehazer).stream
        monkeypatch.setattr(images, "read", lambda *a, **k: read(lambda: originals[0](*a, **k)))
        monkeypatch.setattr(images, "write", lambda *a, **k: write(lambda: originals[1](*a, **k)))
        monkeypatch.setattr(type(dehazer), "stream", lambda *a, **k: call(lambda: originals[2](*a, **k)))
        sources = [picture(tmp_path / f"{index}.png", seed=index) for index in range(self.COUNT)]
        assert run(sources, tmp_path / "out", dehazer, memory=memory) == ["done"] * self.COUNT
        monkeypatch.undo()
        for index, source in enumerate(sources):
            result = np.asarray(Image.open(tmp_path / f"out/{index}.png"))
            assert np.array_equal(result, dehazer(np.asarray(Image.open(source))))

    @pytest.mark.parametrize("memory", [None, "4GiB"])
    def test_codecs_work_beside_the_network(self, tmp_path, dehazer, monkeypatch, memory):
        """The second and third are not read before the one before them is being dehazed; nor written, the other way."""
        begun = [threading.Event() for _ in range(self.COUNT)]
        met, counts = [], {"read": 0, "write": 0, "call": 0}

        def counted(what):
            counts[what] += 1
            return counts[what] - 1

        def read(function):
            number = counted("read")
            met.append(number == 0 or begun[number - 1].wait(20))
            return function()

        def write(function):
            number = counted("write")
            met.append(number + 1 == self.COUNT or begun[number + 1].wait(20))
            return function()

        def call(function):
            begun[counted("call")].set()
            return function()

        self.run(tmp_path, dehazer, monkeypatch, read, write, call, memory)
        assert met == [True] * 2 * self.COUNT

    def test_a_bound_that_leaves_no_room_keeps_them_apart(self, tmp_path, dehazer, monkeypatch):
        events = []

        def noted(name):
            def around(function):
                events.append(f"{name} begins")
                result = function()
                events.append(f"{name} ends")
                return result

            return around

        self.run(tmp_path, dehazer, monkeypatch, noted("read"), noted("write"), noted("dehaze"), "64MiB")
        steps = [f"{step} {what}" for step in ("read", "dehaze", "write") for what in ("begins", "ends")]
        assert events == steps * self.COUNT


def test_a_file_that_does_not_answer_is_one_line_and_the_others_are_done(tmp_path, dehazer, monkeypatch):
    sources = [picture(tmp_path / f"{name}.png") for name in "abc"]
    answer, read = threading.Event(), images.read

    def slow(path, **options):
        if path == sources[1]:
            answer.wait(60)
        return read(path, **options)

    monkeypatch.setattr(images, "read", slow)
    outcomes = run(sources, tmp_path / "out", dehazer, timeout=0.5)
    answer.set()
    assert outcomes == ["done", f"{sources[1]}: reading it takes longer than 0.5 s; check the disk", "done"]


def test_a_run_that_is_broken_off_finishes_what_it_writes(tmp_path, dehazer, monkeypatch):
    write = images.write
    monkeypatch.setattr(images, "write", lambda *a, **k: (time.sleep(0.3), write(*a, **k)))
    sources = [picture(tmp_path / f"{name}.png") for name in "abc"]
    call, calls = type(dehazer).stream, []

    def interrupted(self, image, result, **options):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, image, result, **options)

    monkeypatch.setattr(type(dehazer), "stream", interrupted)
    outcomes = dehaze_files(plan_jobs(sources, tmp_path / "out"), dehazer)
    assert next(outcomes).done
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    assert names(tmp_path / "out") == ["a.png"]
    assert Image.open(tmp_path / "out/a.png").size == (13, 9)


@pytest.mark.parametrize("again", [0, 1])
def test_an_interrupt_at_any_moment_tells_first_of_what_is_written(tmp_path, dehazer, monkeypatch, again):
    """Here while the header of the third is looked at, and once more while the first is waited for."""
    write = images.write

    def slow(*arguments, **options):
        for _ in range(again):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        write(*arguments, **options)

    checked = running.pictures.checked

    def interrupted(job, *arguments):
        if job.source.name == "c.png":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.05)
        return checked(job, *arguments)

    monkeypatch.setattr(images, "write", slow)
    monkeypatch.setattr(running.pictures, "checked", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcomes = dehaze_files(plan_jobs([picture(tmp_path / f"{n}.png") for n in "abc"], tmp_path / "out"), dehazer)
        assert next(outcomes).job.source.name == "a.png"
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
    finally:
        signal.signal(signal.SIGINT, before)
    assert names(tmp_path / "out") == ["a.png"]


def test_what_a_picture_took(tmp_path, dehazer):
    jobs = plan_jobs([picture(tmp_path / "a.png"), tmp_path / "none.png"], tmp_path / "out")
    done, failed = dehaze_files(jobs, dehazer)
    assert (done.measured.width, done.measured.height) == (13, 9)
    assert set(done.measured.seconds) == {"read", "dehaze", "write"}
    assert all(seconds > 0 for seconds in done.measured.seconds.values())
    assert done.measured.peak_bytes > 2**24
    assert failed.measured is None
