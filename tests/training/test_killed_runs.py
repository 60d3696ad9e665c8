"""The kill campaign, short: real runs of one, two and four processes, killed until they finish.

Every day's tests run it with two kills of two processes, as a benchmark at tiny size.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "benchmarks/kill_campaign.py"


@pytest.mark.nightly
def test_killed_runs_of_one_two_and_four_processes_end_bit_for_bit_and_never_hang() -> None:
    """kill -9 of one process, kill -9 of all and SIGTERM of all, at random moments."""
    command = [sys.executable, str(CAMPAIGN), "--kills", "9", "--epochs", "3", "--processes", "4", "2", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] >= 9 and result["different"] == result["hangs"] == 0
    assert {kind.rpartition(", ")[2] for kind in result["by_mode"]} == {f"{n} processes" for n in (1, 2, 4)}
