"""Where the files of a study lie.

search.db                              Optuna's storage: every trial, its settings and validation score
search/METHOD/REGIME/trial-0007/       summary.json of each trial
choices.json                           the settings chosen on validation scores, with the evidence
repeats/METHOD/REGIME/seed-1/          run directory of the chosen settings with a fresh seed
scorings.jsonl                         one line for every scoring of test data
results.json, results.md, results.png  the table and the figure
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvicreg.errors import MissingFileError


@dataclass(frozen=True)
class StudyFolder:
    """Paths of a study's files, and what is recorded in them."""

    path: Path

    @property
    def storage(self) -> str:
        """Optuna's address of the SQLite file."""
        return f"sqlite:///{self.path / 'search.db'}"

    @property
    def choices(self) -> Path:
        """The chosen settings."""
        return self.path / "choices.json"

    @property
    def scorings(self) -> Path:
        """One line for every scoring of test data."""
        return self.path / "scorings.jsonl"

    def trial(self, method: str, regime: str, number: int) -> Path:
        """Run directory of one trial of the search."""
        return self.path / "search" / method / regime / f"trial-{number:04d}"

    def repeat(self, method: str, regime: str, seed: int) -> Path:
        """Run directory of the chosen settings with one seed."""
        return self.path / "repeats" / method / regime / f"seed-{seed}"

    def read_choices(self) -> dict[str, dict[str, Any]]:
        """The choice of each "method/regime". Raises MissingFileError before anything was chosen."""
        if not self.choices.is_file():
            raise MissingFileError(
                f"{self.choices} is missing: nothing has been chosen; run the 'choose' command first"
            )
        content: dict[str, dict[str, Any]] = json.loads(self.choices.read_text(encoding="utf-8"))
        return content

    def read_scorings(self) -> list[dict[str, Any]]:
        """Every scoring of test data so far, in order."""
        if not self.scorings.is_file():
            return []
        return [json.loads(line) for line in self.scorings.read_text(encoding="utf-8").splitlines()]
