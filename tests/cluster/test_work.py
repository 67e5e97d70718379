"""What is given to workers, and what becomes of files whose worker died; no Ray needed."""

from pathlib import Path

import pytest

from famkern.batch import Job, Options, Outcome, Skip
from famkern.cluster.work import ATTEMPTS, HANDFUL, Work

OPTIONS = Options()


def jobs_of(count, folder=Path("nowhere")):
    return [Job(Path(f"{number}.png"), folder / f"{number}.png") for number in range(count)]


def died(work, jobs, alone):
    return list(work.returned(jobs, alone=alone, reason="its process died"))


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 2, 63, 500])
def test_handfuls_hold_each_job_once_in_order_and_end_small(count, workers):
    jobs = jobs_of(count)
    work, handfuls = Work(jobs, OPTIONS), []
    while work:
        handfuls.append(work.handful(workers))
    assert [job for handful in handfuls for job in handful] == jobs
    assert max(map(len, handfuls)) <= HANDFUL
    assert all(len(handful) == 1 for handful in handfuls[-workers:])
    assert work.handful(workers) == []


def test_what_needs_no_work_goes_to_nobody(tmp_path):
    for number in (0, 1, 4):
        (tmp_path / f"{number}.png").write_text("there")
    jobs = jobs_of(6, tmp_path)
    jobs[3] = Job(jobs[3].source, jobs[3].target, problem="is itself")
    work, told, given = Work(jobs, OPTIONS), [], []
    while work:
        told += work.foregone()
        given += work.handful(1)
    assert [(outcome.job, outcome.skipped or outcome.problem) for outcome in told] == [
        (jobs[0], Skip.THERE),
        (jobs[1], Skip.THERE),
        (jobs[3], "is itself"),
        (jobs[4], Skip.THERE),
    ]
    assert given == [jobs[2], jobs[5]]
    assert Work(jobs, Options(overwrite=True)).handful(1) == jobs[:3]


def test_what_a_worker_died_with_is_done_again_alone_and_first():
    jobs = jobs_of(40)
    work = Work(jobs, OPTIONS)
    handful = work.handful(1)
    assert died(work, handful[1:], alone=False) == []
    assert [work.handful(1) for _ in handful[1:]] == [[job] for job in handful[1:]]
    assert work.handful(1)[0] == jobs[len(handful)]


def test_a_file_is_given_up_when_workers_die_with_it_alone():
    (job,) = jobs_of(1)
    work = Work([job], OPTIONS)
    assert work.handful(1) == [job]
    assert died(work, [job], alone=False) == []
    for _ in range(ATTEMPTS - 1):
        assert work.handful(1) == [job]
        assert died(work, [job], alone=True) == []
    assert work.handful(1) == [job]
    (outcome,) = died(work, [job], alone=True)
    assert outcome.problem == (
        f"0.png: {ATTEMPTS} workers died with it (its process died); if memory was short, bound it by --memory"
    )
    assert not work


def test_what_a_worker_wrote_before_it_died_is_done():
    first, second = jobs_of(2)
    work = Work([first, second], OPTIONS)
    died(work, [first], alone=False)
    assert work.told(Outcome(first, skipped=Skip.THERE)) == Outcome(first, done=True)
    assert work.told(Outcome(second, skipped=Skip.THERE)) == Outcome(second, skipped=Skip.THERE)
    assert work.told(Outcome(first, problem="broken")) == Outcome(first, problem="broken")
