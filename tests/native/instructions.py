"""Instructions that each stage of the AVX2 kernels takes, beside those on record: slower code does not come in unseen.

    python tests/native/instructions.py build/native/test [--record]        (make instructions)

Valgrind's callgrind counts them one by one, the same on every run, whatever else the machine does. It knows no AVX-512.
Counts hold for one compiler; with another one there is nothing to compare with, and this says so.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("instructions.json")
ALLOWED = 0.02  # more than on record


def counts(binary: str) -> dict[str, int]:
    """Name of each stage -> its instructions."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--combine-dumps=no"]
        command += ["--dump-before=famkern::test::famkern_mark()", binary, "counted"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"callgrind ended with {done.returncode}: {done.stderr.strip()}")
        names = done.stdout.splitlines()
        # A dump covers what came since the one before: what led up to a mark, then what lies between two.
        between = [Path(folder, f"out.{2 * index + 2}") for index in range(len(names))]
        return {name: _total(dump) for name, dump in zip(names, between, strict=True)}


def _total(dump: Path) -> int:
    match = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.M)
    if match is None:
        sys.exit(f"{dump}: callgrind wrote no summary")
    return int(match[1])


def compiler() -> str:
    """That the kernels are compiled with: name and version."""
    return subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count the instructions of each stage, and compare with the record.")
    parser.add_argument("binary")
    parser.add_argument("--record", action="store_true", help="write the record instead of comparing with it")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is missing (on Debian and Ubuntu: apt install valgrind)")
    found = counts(options.binary)
    if not found:
        print("skipped: the processor has no AVX2")
        return 0
    if options.record:
        RECORD.write_text(json.dumps({"compiler": compiler(), "instructions": found}, indent=4) + "\n")
        return 0
    record = json.loads(RECORD.read_text())
    if record["compiler"] != compiler():
        print(f"skipped: the record is of {record['compiler']!r}, this is {compiler()!r}")
        return 0
    slower = []
    for name in sorted({*found, *record["instructions"]}):
        now, before = found.get(name), record["instructions"].get(name)
        change = f"{now / before - 1:+.2%}" if now and before else "not on record" if now else "gone"
        print(f"{name:32} {now or 0:12,} {change}")
        if not now or not before or now > before * (1 + ALLOWED):
            slower.append(name)
    if slower:
        print(f"more than {ALLOWED:.0%} above the record, or not on both sides: {'; '.join(slower)}")
        print("If that is meant, record it anew: make instructions RECORD=--record, and say why in the commit.")
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
