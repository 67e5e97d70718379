"""Bytes that the stages move: the limits that the kernels for GPUs are held to, and the table in the documentation."""

import re
from pathlib import Path

import pytest
import torch

from famkern.engine import traffic
from famkern.engine.line import IMAGE, OUTPUT
from famkern.models import UStudent

from .test_line import NUMBERS, line_of, lowered

DOCUMENT = Path(__file__).parents[2] / "docs/gpu-kernels.md"
HALF = torch.float16


def name_of(stage):
    return stage.kind.replace("_", " ")


@pytest.mark.parametrize(("groups", "blocks"), NUMBERS)
def test_two_maps_in_and_two_out_and_three_in_at_the_end_of_a_group(groups, blocks):
    line = line_of(groups, blocks, HALF)
    for stage in line.stages:
        moved = traffic.stage_traffic(line, stage)
        most = {"head": (0, 2), "block": (2, 2), "group": (3, 2), "last group": (3, 1), "tail": (groups, 0)}
        reads, writes = most[name_of(stage)]
        assert moved.maps_read <= reads
        assert moved.maps_written == writes
        pictures = 12 * (IMAGE in stage.reads) + 12 * (OUTPUT in stage.writes)
        assert moved.total == 32 * (moved.maps_read + moved.maps_written) + pictures


def test_a_map_that_is_read_twice_is_one_map():
    line = line_of(3, 1, HALF)
    stage = line.stages[1]
    assert name_of(stage) == "group"
    assert len(stage.reads) == 3
    assert traffic.stage_traffic(line, stage).maps_read == 2


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 128), (torch.bfloat16, 128), (torch.float32, 256)])
def test_bytes_follow_the_precision(dtype, size):
    line = line_of(3, 6, dtype)
    assert traffic.stage_traffic(line, line.stages[1]).total == size


def test_at_another_scale_there_are_fewer_pixels():
    line = lowered(UStudent((16, 32, 64), (1, 2, 4, 2, 1)), maps=HALF)
    moved = {(stage.kind, line.scales[i]): traffic.stage_traffic(line, stage) for i, stage in enumerate(line.stages)}
    assert moved["block", 2].total == 4 * 2 * 32 / 4
    assert moved["block", 4].total == 4 * 2 * 64 / 16
    assert (moved["down", 2].read, moved["down", 2].written) == (32, 2 * 2 * 32 / 4)
    assert (moved["up", 1].read, moved["up", 1].written) == (32 + 2 * 32 / 4, 2 * 32)
    assert moved["u_tail", 1].total == 2 * 32 + 12 + 12  # x is the skip too


def test_partial_sums_are_a_vector_a_block_written_and_read():
    line = line_of(3, 6, HALF)
    block, group = (next(s for s in line.stages if name_of(s) == name) for name in ("block", "group"))
    for stage, sums in ((block, 1), (group, 2)):
        bare, full = (traffic.stage_traffic(line, stage, tiling) for tiling in (None, traffic.TRITON))
        own = 128 - 2 * stage.convolutions
        assert full.written - bare.written == pytest.approx(sums * 64 / own)
        assert full.read - bare.read == pytest.approx(sums * 64 / own)


@pytest.mark.parametrize("tiling", [traffic.TRITON, traffic.CUDA])
def test_the_halo_is_counted_by_hand(tiling):
    """Pixels read by one block and one run, counted one by one."""
    for stage in line_of(3, 6, HALF).stages:
        n, run = stage.convolutions, 24
        rows = 0
        while rows < run + 2 * n:
            rows += tiling.step
        own = run * (tiling.lanes - 2 * n)
        assert traffic.halo_share(stage, tiling, run) == pytest.approx((rows * tiling.lanes - own) / own)


def test_the_documented_table_is_the_model_s():
    line = line_of(3, 6, HALF)
    text = DOCUMENT.read_text()
    documented = {
        name: (int(read[0]) if read[0].isdigit() else 0, int(written[0]) if written[0].isdigit() else 0, int(size))
        for name, read, written, size in re.findall(r"^\| ([a-z ]+) \| (.+?) \| (.+?) \| (\d+) \|", text, re.MULTILINE)
    }
    counted = {}
    for stage in line.stages:
        moved = traffic.stage_traffic(line, stage)
        counted[name_of(stage)] = (moved.maps_read, moved.maps_written, moved.total)
    assert documented == counted
    total = sum(traffic.stage_traffic(line, stage).total for stage in line.stages)
    assert f"moves {total:,.0f} bytes a pixel" in text


def test_the_documented_table_of_the_u_is_the_model_s():
    line = lowered(UStudent(), maps=HALF)
    counted = {}
    for stage, scale in zip(line.stages, line.scales, strict=True):
        name = f"{name_of(stage)}, {'1/' * (scale > 1)}{scale}"
        number, _ = counted.get(name, (0, 0))
        counted[name] = (number + 1, traffic.stage_traffic(line, stage).total)
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| ([a-z ]+, [1/24]+) \| (\d+) \|.*\| (\d+) \|$", text, re.MULTILINE)
    assert {name: (int(number), float(size)) for name, number, size in rows} == counted
    assert f"moves {sum(number * size for number, size in counted.values()):,.0f} bytes a pixel, 7.5 GB" in text


def test_the_tilings_are_those_of_the_kernels():
    source = (Path(__file__).parents[2] / "csrc/cuda/place.h").read_text()
    assert f"kLanes = {traffic.CUDA.lanes}," in source
    assert f"kRows = {traffic.CUDA.step}," in source
    stages = pytest.importorskip("famkern.kernels.stages", reason="needs triton")
    assert stages.TILES[16, HALF.itemsize].lanes == traffic.TRITON.lanes
