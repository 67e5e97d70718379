"""PSNR and SSIM of what can remove haze here, on the same pairs by the same rules: the table of docs/quality.md.

    python benchmarks/quality.py FOLDER [--aodnet aodnet.pth] [--models student ...] [--scales 1 auto] [--side 1080]

FOLDER holds hazy/ and clear/. AOD-Net runs only if its weights are given. Seconds are medians for one picture of 16:9 and
the given height, on this machine, in this process, one after another in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import dark_channel
import torch
import torch.nn.functional as F
from torch import Tensor

from famkern import Dehazer, models
from famkern.training import evaluation

ROUNDS = 3

Method = Callable[[Tensor], Tensor]  # (3, H, W) in [0, 1] -> the same


class AODNet:
    """All-in-one dehazing (ICCV 2017): five small convolutions find K(x); J = K I - K + 1."""

    def __init__(self, weights: Path) -> None:
        self.tensors = torch.load(weights, map_location="cpu", weights_only=True)

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] -> the same."""

        def conv(number: int, *maps: Tensor) -> Tensor:
            weight, bias = (self.tensors[f"e_conv{number}.{part}"] for part in ("weight", "bias"))
            return F.relu(F.conv2d(torch.cat(maps, 1), weight, bias, padding=weight.shape[-1] // 2))

        with torch.inference_mode():
            x = image[None]
            one = conv(1, x)
            two = conv(2, one)
            three = conv(3, one, two)
            four = conv(4, two, three)
            k = conv(5, one, two, three, four)
            return F.relu(k * x - k + 1)[0].clamp(0, 1)


def classical(image: Tensor) -> Tensor:
    """The dark channel prior."""
    return torch.from_numpy(dark_channel.dehaze(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)


def methods() -> dict[str, tuple[Method, int]]:
    """Name of each method -> what it does, and how many parameters it has."""
    found: dict[str, tuple[Method, int]] = {"hazy input": (lambda image: image, 0)}
    found["dark channel prior"] = classical, 0
    if arguments.aodnet:
        aodnet = AODNet(arguments.aodnet)
        found["AOD-Net"] = aodnet, sum(tensor.numel() for tensor in aodnet.tensors.values())
    for name in arguments.models:
        parameters = sum(parameter.numel() for parameter in models.load(name).parameters())
        for scale in arguments.scales:
            chosen = scale if scale == "auto" else int(scale)
            found[f"{name}, scale {scale}"] = Dehazer(name, device="cpu", scale=chosen), parameters
    return found


def main() -> None:
    pairs = [(evaluation.read(p.hazy), evaluation.read(p.clear)) for p in evaluation.find_pairs(arguments.folder)]
    large = torch.rand(3, arguments.side, round(arguments.side * 16 / 9))
    found = methods()
    taken: dict[str, list[float]] = {name: [] for name in found}
    for method, _ in found.values():
        method(large)  # not timed: memory is got and libraries are loaded
    for _ in range(ROUNDS):
        for name, (method, _) in found.items():
            begin = time.perf_counter()
            method(large)
            taken[name].append(time.perf_counter() - begin)
    print(f"{len(pairs)} pairs; {evaluation.RULES}; seconds at {large.shape[2]} x {large.shape[1]}, ")
    print(
        f"{torch.get_num_threads()} threads\n\n| method | PSNR | SSIM | parameters | seconds |\n|---|---|---|---|---|"
    )
    for name, (method, parameters) in found.items():
        figures = [evaluation.measure(method(hazy), clear) for hazy, clear in pairs]
        psnr, ssim = (statistics.mean(values) for values in zip(*figures, strict=True))
        seconds = f"{statistics.median(taken[name]):.2f}" if name != "hazy input" else ""
        print(
            f"| {name} | {psnr:.2f} dB | {ssim:.3f} | {f'{parameters:,}' if parameters else ''} | {seconds} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--aodnet", type=Path, help="weights of AOD-Net: e_conv1.weight, ...")
    parser.add_argument("--models", nargs="*", default=["student", "student-indoor"])
    parser.add_argument("--scales", nargs="*", default=["1", "2", "3", "auto"])
    parser.add_argument("--side", type=int, default=1080)
    arguments = parser.parse_args()
    main()
