"""The kill campaign, short: real runs of one and two processes, killed until they finish."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent.parent / "benchmarks/kill_campaign.py"


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_and_never_hang() -> None:
    command = [sys.executable, str(CAMPAIGN), "--kills", "12", "--processes", "1", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] >= 12 and result["different"] == result["hangs"] == 0
