"""What the Feature Affinity Module adds: the same short training without it, with the paper's scale, and with "rms".

    python benchmarks/ablation.py -o runs/ablation --val FOLDER --solved FOLDER [--photos FOLDER ...] --teacher teacher

Each arm is trained from several seeds with equal data, steps and schedule, then measured on all pairs of --val. The
paper's weight goes with its scale; for "rms" each of --weights is tried on the first seed, and the best is used for the
others. Trainings that are there already are resumed, so the command may be interrupted and repeated. It writes
ablation.csv and prints the table of docs/training.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

from famkern import Dehazer
from famkern.training import evaluation
from famkern.training.data import find_pairs

PAPER_WEIGHT = "0.25"


def train(folder: Path, *options: str) -> float:
    """Mean PSNR on the validation pairs of a training of these options."""
    resume = ["--resume"] if (folder / "recipe.json").exists() else []
    command = [sys.executable, "-m", "famkern", "train", "student", "-o", str(folder), *options, *resume]
    subprocess.run(command, check=True)
    pairs = find_pairs(arguments.val)
    return evaluation.mean(list(evaluation.evaluate(Dehazer(str(folder / "student.safetensors")), pairs))).psnr


def main() -> None:
    common = ["--preset", "paper", "--lr", str(arguments.lr), "--steps", str(arguments.steps)]
    common += ["--crop", str(arguments.crop), "--batch", str(arguments.batch), "--average", "0.99"]
    common += ["--checkpoint-every", "250", "--workers", str(arguments.workers), "--val-every", str(arguments.steps)]
    for kind in ("pairs", "solved", "depth", "photos"):
        for folder in getattr(arguments, kind) or []:
            common += [f"--{kind}", folder]
    fam = ["--teacher", arguments.teacher, "--fam-scale"]

    def run(arm: str, seed: int, *options: str) -> float:
        return train(arguments.output / f"{arm}-{seed}", *common, *options, "--seed", str(seed))

    tried = {w: run(f"rms-{w}", 0, *fam, "rms", "--fam-weight", w) for w in arguments.weights}
    weight = max(tried, key=lambda w: tried[w])
    arms = {
        "no FAM": ("none", ["--teacher", "none"]),
        f"FAM, paper scale, weight {PAPER_WEIGHT}": ("paper", [*fam, "paper", "--fam-weight", PAPER_WEIGHT]),
        f"FAM, rms scale, weight {weight}": (f"rms-{weight}", [*fam, "rms", "--fam-weight", weight]),
    }
    rows = [(f"rms weight {w}, seed 0", psnr, "") for w, psnr in tried.items()]
    for title, (arm, options) in arms.items():
        figures = [run(arm, seed, *options) for seed in range(arguments.seeds)]
        spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
        rows.append((title, statistics.mean(figures), f"{spread:.2f}; " + ", ".join(f"{f:.2f}" for f in figures)))
    with (arguments.output / "ablation.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("arm", "PSNR in dB", "standard deviation; seeds"), *rows])
    for title, mean, spread in rows:
        print(f"| {title} | {mean:.2f} | {spread} |")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-o", "--output", type=Path, required=True)
parser.add_argument("--val", required=True, help="hazy/ and clear/ to measure on")
for kind in ("pairs", "solved", "depth", "photos"):
    parser.add_argument(f"--{kind}", action="append", help="as of famkern train student")
parser.add_argument("--teacher", default="teacher")
parser.add_argument("--weights", nargs="+", default=["0.01", "0.1", "1"], help="to try for rms")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--crop", type=int, default=96)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--workers", type=int, default=0)
arguments = parser.parse_args()

if __name__ == "__main__":
    arguments.output.mkdir(parents=True, exist_ok=True)
    main()
