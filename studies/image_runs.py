"""The runs of a script of image-only claims, kept as each ends, so that an interrupted script continues."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from claim_record import STUDIES, Config

from mmvicreg.progress import bar

Jobs = Mapping[tuple[str, int], Callable[[], dict[str, float]]]


class Runs:
    """Results by name and seed in a file of JSON lines, written as each run ends; what it holds is not run again.

    ``file``: None keeps them in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
        self.found = {(line["name"], line["seed"]): line for line in map(json.loads, lines)}

    def run(self, jobs: Jobs) -> None:
        """Do the jobs, by (name, seed), that are not done."""
        left = {key: job for key, job in jobs.items() if key not in self.found}
        with bar("runs", len(left)) as advance:
            for (name, seed), job in left.items():
                start = time.process_time()
                values = {key: round(value, 4) for key, value in job().items()}
                line = {
                    "name": name,
                    "seed": seed,
                    **values,
                    "seconds": round(time.process_time() - start, 2),
                }
                self._append(line)
                self.found[name, seed] = line
                advance(1, f"{name} {line['validation']:.1f}")

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def values(self, name: str, key: str = "all") -> list[float]:
        """One value of every run of that name, in the order of seeds."""
        return [line[key] for (known, _), line in sorted(self.found.items()) if known == name]

    def mean(self, name: str, key: str = "all") -> float:
        """The mean over seeds."""
        return fmean(self.values(name, key))

    def seconds(self) -> float:
        """Processor time of all runs."""
        return sum(line["seconds"] for line in self.found.values())


def runs_of(script: str, config: Config) -> Runs:
    """The runs of a script, in runs/claims/NAME.jsonl of the repository; with ``tiny`` in memory."""
    return Runs(None if config.tiny else STUDIES.parent / "runs" / "claims" / f"{Path(script).stem}.jsonl")
