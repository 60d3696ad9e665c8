"""Scores of single runs in one JSON file that grows: what ``pair_gap.py`` and ``pair_scorings.py`` write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from claim_record import checked_out_commit

from mmvicreg.files import write_text

Scores = dict[str, dict[str, dict[str, float]]]
"""By name of what is compared, by run as REGIME/SEED, by kind of score; fractions."""


def read_scores(path: Path) -> Scores:
    """What is recorded so far."""
    if not path.is_file():
        return {}
    found: Scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    return found


def write_scores(path: Path, scores: Scores, command: str) -> None:
    """Write them with the runs that they are of, the command, the date and the commit."""
    runs = [run.rpartition("/") for found in scores.values() for run in found]
    content: Mapping[str, object] = {
        "regimes": sorted({regime for regime, _, _ in runs}),
        "seeds": sorted({int(seed) for _, _, seed in runs}),
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": checked_out_commit(),
        "scores": scores,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
