"""How long `famkern dehaze` takes from start to end beside `import torch`, each in processes of their own, in turn.

    python benchmarks/start.py --python /path/to/environment/bin/python

dehazes the bundled picture at 640 x 480 with the famkern of that environment, by default the one that runs this, and prints
medians and by how much longer it takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "lake-sherburne-hazy.jpg"


def seconds(command: list[str], folder: str) -> float:
    """Of a command in that folder, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="of the environment to measure")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    dehaze = "-m famkern dehaze hazy.jpg -o clear.jpg --overwrite --quiet"
    commands = {
        "import torch": [options.python, "-c", "import torch"],
        "famkern dehaze": [options.python, *dehaze.split()],
    }
    with tempfile.TemporaryDirectory() as folder:
        Image.open(EXAMPLE).resize((640, 480)).save(f"{folder}/hazy.jpg", quality=92)
        for command in commands.values():  # once untimed: files come from the disk, Python writes its bytecode
            seconds(command, folder)
        rounds = [[seconds(command, folder) for command in commands.values()] for _ in range(options.rounds)]
    for name, times in zip(commands, zip(*rounds, strict=True), strict=True):
        print(f"{name}: {median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
    print(f"longer by {median(ours - torch for torch, ours in rounds):.2f} s")


if __name__ == "__main__":
    main()
