"""The page that the GPU's benchmark writes says what was measured, and what was not."""

import gpu_report
import pytest
from gpu_report import COMPILED, EAGER, FAMILIES, FOURK, IDENTITY, OURS, Report, StageTime, Times

CASE = (FAMILIES[0], FOURK)
MISSING = Times(missing="no compiler")
FRAMES = {OURS[0]: Times((9.0, 11.0, 10.0)), OURS[1]: Times((20.0,)), EAGER: Times((60.0,)), COMPILED: Times((25.0,))}


def report_of(frames=FRAMES, affinity=None):
    stage = StageTime(OURS[0], "block", 15, Times((0.5, 0.4, 0.6)), bytes=1.2e9)
    return Report(
        machine={"GPU": "NVIDIA H100 80GB HBM3", "driver": "580.1", "PyTorch": "2.11.0"},
        command="python benchmarks/bench_gpu.py --rounds 3",
        bandwidth=3e12,
        frames={CASE: frames},
        stages={CASE: [stage]},
        affinity=affinity or {"famkern": Times((0.4,)), IDENTITY: Times((1.0,))},
    )


def test_the_median_is_what_counts():
    assert Times((3.0, 100.0, 1.0)).median == 3.0
    assert str(Times((2.0,))) == "2.000 (2.000 to 2.000)"
    assert str(Times(tuple(float(n) for n in range(101)))) == "50.000 (10.000 to 90.000)"
    assert MISSING.median is None
    assert str(MISSING) == "not measured: no compiler"


def test_ratios_are_to_the_faster_one_of_ours():
    assert gpu_report.fastest(FRAMES) is FRAMES[OURS[0]]
    assert gpu_report.fastest({OURS[0]: MISSING, OURS[1]: FRAMES[OURS[1]]}) is FRAMES[OURS[1]]
    assert gpu_report.fastest({EAGER: FRAMES[EAGER]}) is None
    assert gpu_report.ratio(FRAMES[EAGER], FRAMES[OURS[0]]) == 6.0
    assert gpu_report.ratio(MISSING, FRAMES[OURS[0]]) is None
    assert gpu_report.ratio(FRAMES[EAGER], None) is None


def test_the_share_is_that_of_a_copy_of_as_many_bytes():
    stage = report_of().stages[CASE][0]
    assert stage.share(3e12) == pytest.approx(0.8)  # 1.2 GB take 0.4 ms at 3 TB/s; it took 0.5
    assert StageTime(OURS[0], "block", 15, MISSING, 1.0).share(3e12) is None


def test_goals_are_judged_by_their_numbers():
    assert [held for *_, held in gpu_report.goals(report_of())] == ["yes", "yes", "no", "yes"]
    assert gpu_report.goals(report_of())[2][1:3] == ("at least 3 x", "2.50 x")
    slow = report_of({**FRAMES, OURS[0]: Times((12.5,))}, {"famkern": Times((0.6,))})
    assert [held for *_, held in gpu_report.goals(slow)] == ["no", "no", "no", "no"]
    without = report_of({OURS[0]: FRAMES[OURS[0]], EAGER: FRAMES[EAGER], COMPILED: MISSING})
    assert [held for *_, held in gpu_report.goals(without)] == ["yes", "yes", "open", "yes"]
    nothing = Report({"GPU": "x"}, "", 1.0, {}, {})
    assert {held for *_, held in gpu_report.goals(nothing)} == {"open"}


def test_the_page_has_everything_that_was_measured():
    page = gpu_report.page(report_of({**FRAMES, COMPILED: Times(missing="RuntimeError: a | b")}))
    assert page.startswith("# NVIDIA H100 80GB HBM3\n")
    for line in (
        "    python benchmarks/bench_gpu.py --rounds 3",
        "| driver | 580.1 |",
        "3,000 GB/s",
        "| a frame of 3840 x 2160 | at most 12 ms | 10.00 ms | yes |",
        f"| against {COMPILED} | at least 3 x | not measured | open |",
        "### student, 3840 x 2160",
        f"| {EAGER} | 60.000 (60.000 to 60.000) | 6.00 x |",
        f"| {COMPILED} | not measured: RuntimeError: a / b |  |",
        "| block | 15 | 0.500 (0.420 to 0.580) | 144.7 | 80% |",
        f"| {IDENTITY} | 1.000 (1.000 to 1.000) |",
    ):
        assert line in page, line
    widths = {}
    for line in page.splitlines():  # every row of a table has as many cells as its head
        if line.startswith("|"):
            widths.setdefault("table", line.count("|"))
            assert line.count("|") == widths["table"], line
        else:
            widths.clear()


def test_a_file_is_named_after_the_card():
    assert gpu_report.file_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3.md"
    assert gpu_report.file_name("NVIDIA GeForce RTX 4090 (Laptop)") == "nvidia-geforce-rtx-4090-laptop.md"
