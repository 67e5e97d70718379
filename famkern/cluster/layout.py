"""layout(): how many workers a cluster has room for, and what each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..dehazer import Dehazer

# CPUs of a worker that is not told how many. Reading and writing a picture take one each, so that with many more of them
# the network would wait for the codecs.
THREADS = 4


@dataclass(frozen=True)
class Layout:
    """How many workers there are to be, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: int


def layout(machines: Sequence[Mapping[str, float]], dehazer: Dehazer, workers: int | None = None) -> Layout:
    """The workers that fill these machines: one on each GPU; or, without GPUs or where the CPU is asked for, on a few CPUs.

    They are all of one kind, since the results of CPU and GPU differ in their last bits.

    Args:
        machines: "CPU" and "GPU" of each, as Ray counts them.
        dehazer: says on which device, and with `threads` on how many CPUs; 4 if it does not.
        workers: how many there are to be instead. Those for whom there is no room wait for machines that join later.

    Raises:
        ValueError: if there is no room for any.
    """
    device = dehazer.device and dehazer.device.type
    shapes = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    on_gpus = [(cpus, gpus) for cpus, gpus in shapes if gpus and cpus >= gpus]
    if on_gpus and device != "cpu":
        cpus = min(dehazer.threads or THREADS, *(cpus // gpus for cpus, gpus in on_gpus))
        return Layout(workers or sum(gpus for _, gpus in on_gpus), cpus, gpus=1)
    if device == "cuda":
        raise ValueError("device is cuda, but Ray knows of no GPU in this cluster")
    largest = max((cpus for cpus, _ in shapes), default=0)
    cpus = dehazer.threads or max(1, min(THREADS, largest))
    room = sum(count // cpus for count, _ in shapes)
    if not (workers or room):
        raise ValueError(f"a worker takes {cpus} CPUs, but the largest machine of the cluster has {largest}")
    return Layout(workers or room, cpus, gpus=0)
