"""How many workers a cluster has room for; no Ray needed."""

import pytest
import torch

import famkern
from famkern.cluster.layout import THREADS, Layout, layout
from famkern.models import Student


def machine(cpus, gpus=0):
    return {"CPU": float(cpus), "GPU": float(gpus), "memory": 1e9} if gpus else {"CPU": float(cpus), "memory": 1e9}


def dehazer(device=None, threads=None):
    made = famkern.Dehazer(Student(16, 1, 1), threads=threads)
    made.device = device and torch.device(device)  # which need not be on the machine that asks
    return made


@pytest.mark.parametrize(
    ("machines", "threads", "expected"),
    [
        ([machine(2)], None, Layout(1, 2, 0)),
        ([machine(2)], 1, Layout(2, 1, 0)),
        ([machine(64), machine(64)], None, Layout(32, THREADS, 0)),
        ([machine(7), machine(3), {"memory": 1e9}], 2, Layout(4, 2, 0)),
        ([machine(16, 1)], None, Layout(1, 4, 1)),
        ([machine(16, 8), machine(8)], None, Layout(8, 2, 1)),
        ([machine(16, 2)], 1, Layout(2, 1, 1)),
    ],
)
def test_workers_fill_the_machines(machines, threads, expected):
    assert layout(machines, dehazer(threads=threads)) == expected


def test_the_cpu_is_used_where_it_is_asked_for():
    assert layout([machine(16, 1)], dehazer("cpu")) == Layout(4, 4, 0)


def test_more_workers_than_there_is_room_for_wait_for_machines():
    assert layout([machine(4)], dehazer(), workers=9) == Layout(9, 4, 0)
    assert layout([{}], dehazer(threads=3), workers=9) == Layout(9, 3, 0)


def test_no_room_is_one_line():
    with pytest.raises(ValueError, match=r"^a worker takes 8 CPUs, but the largest machine of the cluster has 4$"):
        layout([machine(4), machine(2)], dehazer(threads=8))
    with pytest.raises(ValueError, match=r"^device is cuda, but Ray knows of no GPU in this cluster$"):
        layout([machine(4)], dehazer("cuda"))
