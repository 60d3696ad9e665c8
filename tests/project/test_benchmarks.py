"""The step benchmark, which reaches into the training loop, at its smallest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_step_benchmark_runs_and_ends_in_its_ratios() -> None:
    small = ["--batch-size", "8", "--steps", "1", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "benchmarks/step.py", *small],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("vicreg", "visreg", "sigreg"):
        assert found[f"samples_per_second_ratio_{name}"] > 0 and found[f"memory_ratio_{name}"] > 0
