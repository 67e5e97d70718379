"""famkern.ops.affinity under DistributedDataParallel and FSDP2: two processes with parts of a batch equal one with all."""

from __future__ import annotations

import subprocess
import sys

import pytest

RANK = """
import os, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from famkern.ops.affinity import FeatureAffinityLoss

rank, path, split = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
generator = torch.Generator().manual_seed(0)
teachers, images = torch.rand(5, 3, 35, 42, generator=generator), torch.rand(5, 3, 17, 21, generator=generator)
mine = slice(0, split) if rank == 0 else slice(split, 5)

def network():
    torch.manual_seed(1)
    return torch.nn.Conv2d(3, 4, 3, padding=1).double()

for options in [dict(), dict(scale="rms"), dict(norm="l1"), dict(norm="l1", scale="rms", normalize=True)]:
    alone, shared, sharded = network(), torch.nn.parallel.DistributedDataParallel(network()), network()
    fully_shard(sharded, mesh=mesh)
    wanted = FeatureAffinityLoss(**options)(teachers, alone(images.double()))
    wanted.backward()
    for run in (shared, sharded):
        got = FeatureAffinityLoss(**options, process_group=dist.group.WORLD)(teachers[mine], run(images[mine].double()))
        got.backward()
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
        for a, b in zip(run.parameters(), alone.parameters()):
            gradient = a.grad.full_tensor() if isinstance(a.grad, DTensor) else a.grad
            torch.testing.assert_close(gradient, b.grad, rtol=1e-9, atol=1e-15)

# Equal affinities on both ranks, then on one only.
loss = FeatureAffinityLoss(4, 4, process_group=dist.group.WORLD)
student = images[mine].clone().requires_grad_()
value = loss(images[mine], student)
value.backward()
assert value == 0 and (student.grad == 0).all()
teacher = images[mine] if rank == 0 else 2 * images[mine]
student.grad = None
value = loss(teacher, student)
value.backward()
assert value > 0 and (student.grad == 0).all() == (rank == 0) and student.grad.isfinite().all()
dist.barrier()  # gloo's threads end badly in a process whose peer has gone
os._exit(0)  # and in an interpreter that shuts down while one still holds a tensor, which DDP lets happen
"""


@pytest.mark.parametrize("split", [2, 4])
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, split) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, str(script)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), str(split)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        complaints = [process.communicate(timeout=120)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(complaints)
