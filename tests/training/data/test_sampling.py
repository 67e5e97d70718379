"""Every step draws what it would in an uninterrupted run on one device."""

import pytest

from famkern.training.data import Draw, Phase, StepSampler

PHASES = [Phase(0.3, 16, 8), Phase(1.0, 32, 4)]


def test_phases_follow_one_another():
    steps = list(StepSampler(PHASES, 10))
    assert [(len(draws), draws[0].size) for draws in steps] == [(8, 16)] * 3 + [(4, 32)] * 7
    assert steps[4] == [Draw(4, sample, 32) for sample in range(4)]


@pytest.mark.parametrize("first", [0, 1, 3, 9, 10])
def test_a_resumed_run_goes_on(first):
    sampler = StepSampler(PHASES, 10, first_step=first)
    assert list(sampler) == list(StepSampler(PHASES, 10))[first:]
    assert len(sampler) == len(list(sampler)) == 10 - first


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_each_step(world):
    ranks = [list(StepSampler(PHASES, 10, rank=rank, world=world)) for rank in range(world)]
    for step, whole in enumerate(StepSampler(PHASES, 10)):
        parts = [rank[step] for rank in ranks]
        assert {len(part) for part in parts} == {len(whole) // world}
        assert sorted(draw for part in parts for draw in part) == whole


@pytest.mark.parametrize(
    ("phases", "options", "message"),
    [
        (PHASES, {"world": 3}, "a batch of 8 does not divide by 3"),
        (PHASES, {"rank": 2, "world": 2}, "rank 2 of 2"),
        (PHASES, {"first_step": 11}, "first step 11 of 10"),
        ([], {}, "exactly 1 expected"),
        ([Phase(0.9, 16, 8)], {}, "exactly 1 expected"),
        ([Phase(0.5, 16, 8), Phase(0.5, 16, 8), Phase(1, 16, 8)], {}, "fractions that rise"),
        ([Phase(1, 0, 8)], {}, "at least 1"),
        ([Phase(1, 8, 0)], {}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(phases, options, message):
    with pytest.raises(ValueError, match=message):
        StepSampler(phases, 10, **options)
