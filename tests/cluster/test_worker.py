"""What runs in the processes of a cluster, here in this one."""

import logging
import os

import pytest
import torch

import famkern
from famkern.batch import Options, plan_jobs
from famkern.cluster.worker import Worker
from famkern.models import Student

from ..batch.files import names, picture


@pytest.fixture
def dehazer():
    return famkern.Dehazer(Student(16, 1, 1))


@pytest.fixture
def make(dehazer, monkeypatch):
    """A worker; the process gets its log and its folder back."""
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr(logging.getLogger("famkern"), "handlers", [])

    def made(folder=None, version=famkern.__version__, **options):
        return Worker(dehazer, Options(**options), folder, version)

    return made


def test_a_worker_is_of_use_where_it_sees_the_files(make, tmp_path):
    (tmp_path / "a.png").touch()
    assert make().introduce([tmp_path / "a.png"]) is None
    assert make(folder=str(tmp_path)).introduce([tmp_path.joinpath("a.png").relative_to(tmp_path)]) is None
    assert (
        make()
        .introduce([tmp_path / "b.png"])
        .endswith(f" does not see {tmp_path}/b.png; inputs and outputs lie where all machines see them")
    )
    assert f" does not see the folder {tmp_path}/no, " in make(folder=f"{tmp_path}/no").introduce([])


def test_a_worker_of_another_version_is_of_no_use(make):
    assert make(version="0.0.0").introduce([]).endswith(f" has famkern {famkern.__version__}, not 0.0.0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_worker_without_the_gpu_that_is_asked_for_is_of_no_use(make, dehazer):
    dehazer.device = torch.device("cuda")
    assert make().introduce([]).endswith(" finds no CUDA device")


def test_outcomes_come_with_what_was_logged(make, tmp_path, monkeypatch):
    jobs = plan_jobs([picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], tmp_path / "out")
    stream, worker = famkern.Dehazer.stream, make()

    def warning(self, *args, **kwargs):
        logging.getLogger("famkern").warning("slow")
        return stream(self, *args, **kwargs)

    monkeypatch.setattr(famkern.Dehazer, "stream", warning)
    told = list(worker.dehaze(jobs))
    assert [outcome.job for _, outcome in told if outcome.done] == jobs
    assert [line for lines, _ in told for line in lines] == ["slow", "slow"]


def test_temporary_files_of_others_stay(make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.famkern-0123456789abcdef.part").touch()
    list(make().dehaze(plan_jobs([picture(tmp_path / "a.png")], tmp_path / "out")))
    assert names(tmp_path / "out") == [".famkern-0123456789abcdef.part", "a.png"]
