"""examples/distill_any_model.py runs, and the student's affinities come nearer to the teacher's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples/distill_any_model.py"


def test_it_is_short_and_brings_the_affinities_together() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    result = subprocess.run([sys.executable, EXAMPLE, "60"], capture_output=True, text=True, check=True, timeout=120)
    losses = [float(value) for value in re.findall(r"affinity (\S+)", result.stdout)]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
