"""Odd but valid files are all done; mutated ones are an ImageError or a picture."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import famkern
from famkern import images
from famkern.batch import dehaze_files, plan_jobs
from famkern.models import Student

sys.path.insert(0, str(Path(__file__).parent))
from corpus import SIZE, corpus

FUZZ = Path(__file__).with_name("fuzz.py")


def test_odd_files_are_all_done(tmp_path, capfd):
    torch.manual_seed(0)
    files = corpus()
    assert len(files) >= 60
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out")
    problems = [job.problem for job in jobs if job.problem]
    assert {job.source.name for job in jobs} == set(files)
    outcomes = list(dehaze_files(jobs, famkern.Dehazer(Student(16, 1, 1))))
    problems += [outcome.problem for outcome in outcomes if outcome.problem]
    assert not problems
    assert all(outcome.done for outcome in outcomes)
    for job in jobs:
        picture = images.read(job.target)
        assert sorted(picture.pixels.shape[:2]) == sorted(SIZE)
    assert capfd.readouterr().out == ""


def test_mutated_files_are_an_error_or_a_picture(tmp_path):
    spec = importlib.util.spec_from_file_location("fuzz", FUZZ)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    assert fuzz.run(600, seed=int(np.random.default_rng(7).integers(1000)), keep=tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xd8\xff", b"II*\0", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x1cftypavif"])
def test_starts_of_files_are_an_error(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for open_ in (images.header, images.read):
        with pytest.raises(images.ImageError):
            open_(tmp_path / "a.png")
