"""The whole network on a CPU, beside what a user would run it with instead: `famkern bench` as tests, against our aims.

    pytest benchmarks -k cpu                        the tables; wrong results are not timed but fail
    pytest benchmarks -k "cpu and 512"              only one size; 4K takes a quarter of an hour for the slowest ones
    python benchmarks/bench_cpu.py stages 512 512   time of each kind of stage beside the machine's peak

Float32, two threads, shipped weights of both families. What takes longer than SLOW seconds for a picture is left out.
"""

from __future__ import annotations

import statistics
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import famkern
from famkern import bench, engine
from famkern.models.student import IMAGE_MEAN, IMAGE_STD, fold_norm

THREADS = 2
ROUNDS = 9
SLOW = 30.0  # seconds
SIZES = {"512": (512, 512), "1080p": (1080, 1920), "4K": (2160, 3840)}
# Times that famkern is faster at scale 1, at least: the project's aims.
AIMS = {
    ("student", "OpenVINO"): 3.0,
    ("student", "PyTorch, channels_last"): 5.5,
    ("u-indoor", "OpenVINO"): 2.2,
    ("u-indoor", "ONNX Runtime"): 3.0,
}
Run = Callable[[Tensor], Tensor]


def seconds(run: Run, image: Tensor) -> float:
    start = time.perf_counter()
    run(image)
    return time.perf_counter() - start


@pytest.mark.parametrize("size", SIZES)
def test_cpu_against_other_engines(size, capsys, benchmark):
    rounds = ROUNDS if size == "512" else 3
    plan = bench.Plan(sizes=(SIZES[size],), rounds=rounds, limit=SLOW, memory=(), threads=THREADS)
    results = benchmark.pedantic(bench.run, (plan,), rounds=1)
    benchmark.extra_info |= {f"{row.entry.model}, {row.entry.label}": row.median for row in results.rows}
    with capsys.disabled():
        print(f"\n\n{size}, {THREADS} threads {'':38} median ms   spread   beside scale 1   aim")
        for group in results.groups():
            for row in group:
                label, aim = f"{row.entry.model}, {row.entry.label}", AIMS.get((row.entry.model, row.entry.engine))
                print(
                    f"    {label:48} {1e3 * row.median:9.1f}   {100 * row.spread:4.0f} %   "
                    f"{row.median / group[0].median:12.2f} x" + (f"   {aim:.1f} x" if aim else "")
                )
        for left in results.left_out:
            print(f"    left out: {left.entry.model}, {left.entry.label}: {left.reason}")


def test_cpu_cost_grows_with_the_picture_alone(capsys):
    """Milliseconds a megapixel from 1 to 64 megapixels; 16-bit maps, for the largest picture's to fit into memory."""
    dehazer = famkern.Dehazer(threads=THREADS, dtype=torch.float16, device="cpu")
    sides = (1024, 2048, 4096, 8192)
    per_megapixel = {}
    for side in sides:
        image = torch.rand(3, side, side)
        per_megapixel[side] = 1e3 * min(seconds(dehazer, image) for _ in range(2)) / (side * side / 1e6)
    with capsys.disabled():
        print("\n\n" + "\n".join(f"    {s:5} x {s:<5} {ms:7.1f} ms a megapixel" for s, ms in per_megapixel.items()))


def test_cpu_memory_at_4k(capsys):
    """Peak resident memory of processes that dehaze one 4K picture each, beyond that of their start-up."""
    plan = bench.Plan(sizes=(), engines=(), memory=(SIZES["4K"],), threads=THREADS)
    with capsys.disabled():
        print()
        for memory in bench.run(plan).memory:
            print(f"    4K, {memory.entry.model}, {memory.entry.label}: {memory.bytes / 2**30:.2f} GiB")


def stages(height: int, width: int) -> None:
    """Print the time of each kind of stage, and its share of the machine's peak."""
    torch.set_num_threads(THREADS)
    network = famkern.models.load("student")
    cpu, spent, count = torch.device("cpu"), defaultdict(list), defaultdict(int)
    tensors = fold_norm(dict(network.state_dict()))
    where = {"dtype": torch.float32, "maps": torch.float32, "device": cpu}
    line = engine.lower(tensors, mean=IMAGE_MEAN, std=IMAGE_STD, **where)
    for stage in line.stages:
        count[stage.kind] += 1

    from famkern.ops import route
    from famkern.ops import stage as ops

    def timed(kind: str, *arguments) -> None:
        start = time.perf_counter()
        ops.stage(kind, *arguments)
        spent[kind][-1] += time.perf_counter() - start

    way = route.choose(cpu, network.channels, torch.float32)
    plan = engine.make_plan(
        line,
        height,
        width,
        tile=way.tile,
        memory=None,
        available=1 << 40,
        band_pixels=way.band_pixels,
        workspace=way.workspace_bytes,
    )
    image, nowhere, whole = torch.rand(height, width, 3), types.SimpleNamespace(write=lambda *_: None), []
    for _ in range(ROUNDS):
        for name in count:
            spent[name].append(0.0)
        start = time.perf_counter()
        with torch.inference_mode():
            engine.run(plan, engine.Pixels(image), nowhere, cpu, operator=timed)
        whole.append(time.perf_counter() - start)
    square = 4096
    a = torch.rand(square, square)
    flops = 2 * square**3 / min(seconds(lambda a: a @ a, a) for _ in range(3))
    big, there = torch.ones(1 << 26), torch.ones(1 << 26)  # written to, so that the memory is there
    copy = big.nbytes / min(seconds(there.copy_, big) for _ in range(5))
    print(f"peak as large matrix products reach it {flops / 1e9:.0f} GFLOP/s, copying {copy / 1e9:.1f} GB/s")
    pixels = height * width
    # Convolutions in tiles (36 multiplications for 16 outputs), direct taps, maps that are read or written.
    work = {
        "head": (2, 27, 2),
        "block": (2, 0, 4),
        "group": (3, 0, 5),
        "last_group": (1, 0, 4),
        "tail": (2, 0, 3),
    }
    for name, times in spent.items():
        convolutions, taps, maps = work[name]
        each = statistics.median(times) / count[name]
        multiplied = 2 * pixels * network.channels * (convolutions * network.channels * 36 / 16 + taps)
        moved = maps * pixels * network.channels * 4
        print(
            f"    {count[name]:2} x {name:11} {1e3 * each:8.2f} ms each   {100 * multiplied / each / flops:5.1f} % of peak "
            f"in products alone   {100 * moved / 2 / each / copy:5.1f} % of copy bandwidth"
        )
    print(f"    whole {1e3 * statistics.median(whole):.1f} ms, outside the stages "
          f"{1e3 * (statistics.median(whole) - sum(statistics.median(t) for t in spent.values())):.1f} ms")  # fmt: skip


if __name__ == "__main__":
    stages(int(sys.argv[2]), int(sys.argv[3]))
