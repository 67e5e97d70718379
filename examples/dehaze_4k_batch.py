"""Dehaze a folder of large photographs within a memory bound, tiled exactly.

    python examples/dehaze_4k_batch.py INPUT_DIR OUTPUT_DIR [--memory 1GiB]

The bound changes how a picture is cut into bands, never the picture: whatever the bound, the result is that of the
whole image at once, without seams.
"""

import argparse
import time

from famkern import Dehazer
from famkern.batch import Options, dehaze_files, plan_jobs

parser = argparse.ArgumentParser(description="Dehaze a folder of large photographs within a memory bound.")
parser.add_argument("input_dir")
parser.add_argument("output_dir")
parser.add_argument("--memory", default="1GiB", help="bound on everything a picture needs (default 1GiB)")
arguments = parser.parse_args()

try:
    options = Options(memory=arguments.memory)
    jobs = plan_jobs([arguments.input_dir], arguments.output_dir, options=options)
except ValueError as error:
    parser.error(str(error))
start, failed = time.perf_counter(), 0
for outcome in dehaze_files(jobs, Dehazer(), options):
    now = time.perf_counter()
    word = "there already" if outcome.skipped else f"{now - start:.1f} s"
    print(outcome.problem or f"{outcome.job.source} -> {outcome.job.target}: {word}", flush=True)
    failed += bool(outcome.problem)
    start = now
raise SystemExit(1 if failed else 0)
