"""A Ray of two workers on this machine."""

import functools
import json
import os
import signal

import pytest

import famkern
from famkern import cli
from famkern.batch import dehaze_files, plan_jobs
from famkern.models import Student

from ..batch.files import names, picture

ray = pytest.importorskip("ray", reason="pip install 'famkern[ray]'")

from famkern.cluster import ClusterError, connection, work  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def two_cpus():
    """One Ray for all tests of this file: it takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_cpus=2))
        connection._connect("local")
    yield
    ray.shutdown()


@pytest.fixture
def command(capfd):
    """The command in this process: exit code, and what it says."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.app([str(argument) for argument in arguments])
        return end.value.code or 0, *capfd.readouterr()

    return run


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def lines(report):
    """A report without what differs from run to run, in the order of the files."""
    kept = [json.loads(line) for line in report.read_text().splitlines()]
    for line in kept:
        for name in ("seconds", "megapixels_per_second", "peak_bytes"):
            if name in line:
                assert line.pop(name)
    return sorted(kept, key=lambda line: line["source"])


def test_files_report_and_exit_code_are_those_of_one_machine(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.jpg", "sub/c.tif", "sub/d.webp", "e.png", "f.png", "there.png")):
        picture(tmp_path / "in" / name, (67, 41), seed)
    (tmp_path / "in/broken.png").write_text("no picture")
    results = []
    for engine in ("local", "ray"):
        (tmp_path / "out").mkdir()
        picture(tmp_path / "out/there.png")
        options = ("--recursive", "--transmission", "--threads", 1, "--engine", engine, "--report", f"{engine}.jsonl")
        code, out, err = command("dehaze", "in", "no.png", "-o", "out", *options)
        results.append(
            (code, out, sorted(err.splitlines()), lines(tmp_path / f"{engine}.jsonl"), contents(tmp_path / "out"))
        )
        (tmp_path / "out").rename(tmp_path / engine)
    assert results[0] == results[1]
    code, _, _, report, files = results[1]
    assert code == 1
    assert [line["status"] for line in report].count("failed") == 2
    assert len(files) == 7 + 6 + 1


def test_workers_die_and_every_file_has_its_outcome(tmp_path, monkeypatch, caplog, capfd):
    """One is killed once, in the middle of a picture; those who get another one die always."""
    monkeypatch.setattr(work, "ATTEMPTS", 2)  # each takes seconds
    flag = str(tmp_path / "died")

    class Mortal(famkern.Dehazer):  # in a function, so that it is sent by value
        def stream(self, source, *args, **kwargs):
            once = source.shape[0] == 21 and not os.path.exists(flag)
            if once:
                open(flag, "x").close()
            if once or source.shape[0] == 22:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().stream(source, *args, **kwargs)

    sizes = {3: 21, 9: 22}
    for number in range(16):
        picture(tmp_path / f"in/{number:02}.png", (50, sizes.get(number, 20)), number)
    network = Student(16, 1, 1)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out")
    with connection.connected() as cluster:
        outcomes = list(cluster.dehaze_files(jobs, Mortal(network, threads=1)))
    assert os.path.exists(flag)
    failed = [outcome for outcome in outcomes if outcome.problem]
    assert [outcome.problem for outcome in failed] == [
        f"{tmp_path}/in/09.png: 2 workers died with it (its process died); if memory was short, bound it by --memory"
    ]
    assert sum(outcome.done for outcome in outcomes) == 15
    (tmp_path / "in/09.png").unlink()
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "expected")
    assert all(outcome.done for outcome in dehaze_files(jobs, famkern.Dehazer(network, threads=1)))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert caplog.messages.count("a worker is lost (its process died); its files are done again: 1") >= 2
    assert capfd.readouterr().out == ""  # where a report may go


def test_an_interrupt_is_one_line(tmp_path, monkeypatch, command):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "wait", interrupted)
    picture(tmp_path / "a.png")
    code, out, err = command("dehaze", tmp_path / "a.png", "-o", tmp_path / "out", "--engine", "ray")
    assert (code, out, err) == (130, "", "famkern: interrupted; 0 of 1 pictures are done and kept\n")
    assert names(tmp_path / "out") == []


def test_no_worker_of_use_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "__version__", "0.0.0")
    monkeypatch.setattr(connection, "STARTS", 0)
    jobs = plan_jobs([picture(tmp_path / "a.png")], tmp_path / "out")
    with (
        connection.connected() as cluster,
        pytest.raises(ClusterError, match=r"^no worker can be started: .* not 0\.0\.0$"),
    ):
        list(cluster.dehaze_files(jobs, famkern.Dehazer(Student(16, 1, 1))))
    assert names(tmp_path / "out") == []


def test_what_is_there_needs_no_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "remote", None)
    picture(tmp_path / "out/a.png")
    jobs = plan_jobs([picture(tmp_path / "a.png")], tmp_path / "out")
    with connection.connected() as cluster:
        (outcome,) = cluster.dehaze_files(jobs, famkern.Dehazer(Student(16, 1, 1)))
    assert outcome.skipped


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port", "127.0.0.1:99999"])
def test_where_nobody_listens_is_no_cluster(address):
    with pytest.raises(
        ValueError, match=rf"^no Ray cluster at {address} \(.+\); see `ray status` on its first machine$"
    ):
        connection._connect(address)


def test_the_address_of_a_client_is_refused():
    with pytest.raises(ValueError, match=r"^address is HOST:PORT or auto, not 'ray://here:10001'; "):
        connection._connect("ray://here:10001")
