"""What a run writes down while it trains: numbers as JSON lines, events in words, and Accelerate's trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from mmvicreg.runs.run import EVENTS, LOG
from mmvicreg.training.monitoring.trackers import begin_trackers, finish_trackers


class RunLogger:
    """One process writes; on the others every call does nothing."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, trackers: bool) -> None:
        self.folder, self.accelerator, self.trackers = folder, accelerator, trackers
        self.writes = accelerator.is_main_process

    def begin(self, config: Mapping[str, Any], step: int) -> None:
        """Open the trackers of a run that stands at ``step``; they are told the numbers of its configuration."""
        if self.trackers:
            begin_trackers(self.accelerator, self.folder, flat(config), step=step)

    def close(self) -> None:
        """Close the trackers."""
        if self.trackers:
            finish_trackers(self.accelerator)

    def numbers(self, line: Mapping[str, Any]) -> None:
        """One line of the log, and its numbers to the trackers under names such as terms/image/variance."""
        if not self.writes:
            return
        _append(self.folder / LOG, line)
        if self.trackers:
            numbers = flat(line)
            self.accelerator.log(numbers, step=int(numbers.pop("step")))

    def event(self, step: int, kind: str, message: str) -> None:
        """Something happened that a person wants to know on Monday."""
        if not self.writes:
            return
        line = {
            "step": step,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": kind,
            "message": message,
        }
        _append(self.folder / EVENTS, line)
        Console(stderr=True).print(f"step {step}: {message}", style="yellow", markup=False, highlight=False)

    def say(self, message: str) -> None:
        """A line for whoever is looking on."""
        if self.writes:
            Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


def _append(file: Path, line: Mapping[str, Any]) -> None:
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def flat(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers by path: {"terms": {"image/variance": 1.0}} to {"terms/image/variance": 1.0}."""
    found: dict[str, float] = {}
    for name, value in line.items():
        path = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping):
            found |= flat(value, path)
        elif isinstance(value, int | float):
            found[path] = float(value)
    return found
