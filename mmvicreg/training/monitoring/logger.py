"""What a run writes while it trains: metrics as JSON lines, events in words, Accelerate's trackers and the console."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from rich.console import Console

from mmvicreg.errors import InvalidValueError
from mmvicreg.runs.run import EVENTS, LOG

CONSOLE_SECONDS = 30.0
"""least time between two lines of metrics on the console"""


class RunLogger:
    """Writes on the main process; on the others every call does nothing."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, trackers: bool) -> None:
        self.folder, self.accelerator, self.trackers = folder, accelerator, trackers
        self.writes = accelerator.is_main_process
        self._files = {name: LineFile(folder / name) for name in (LOG, EVENTS)}
        self._shown = float("-inf")

    def begin(self, config: Mapping[str, Any], step: int) -> None:
        """Open the trackers of a run that continues at ``step``; they get the numbers of its configuration.

        TensorBoard continues the same curves; other trackers get a new run for each start, named by its first step.
        """
        if not self.trackers:
            return
        name = {"name": f"{self.folder.name} from step {step}"}
        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": step + 1} if step else {},
            "trackio": name,
            "wandb": name,
        }
        self.accelerator.init_trackers(self.folder.name, config=flat(config), init_kwargs=options)

    def close(self) -> None:
        """Close the trackers. (Accelerate's ``end_training`` would end the process group too.)"""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers.clear()

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Write one line of the log, and its numbers to the trackers under names such as terms/image/variance."""
        if not self.writes:
            return
        self._append(LOG, line)
        if self.trackers:
            numbers = flat(line)
            self.accelerator.log(numbers, step=int(numbers.pop("step")))

    def event(self, step: int, kind: str, message: str) -> None:
        """Write a notable event to the log of events and to the console."""
        if not self.writes:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append(EVENTS, {"step": step, "time": now, "kind": kind, "message": message})
        self._warn(f"step {step}: {message}")

    def say(self, message: str) -> None:
        """Print a line on the console."""
        if self.writes:
            Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, line: Mapping[str, Any], *, total_steps: int, score: str = "") -> None:
        """Print the loss terms of a line of the log with samples/s and the last validation score, at most every 30
        seconds and at the last step."""
        now = time.monotonic()
        if now - self._shown < CONSOLE_SECONDS and line["step"] != total_steps:
            return
        self._shown = now
        terms = "  ".join(f"{name} {value:.4g}" for name, value in line["terms"].items())
        speed = f"  {line['samples_per_second']:,.0f} samples/s" if line.get("samples_per_second") else ""
        self.say(f"step {line['step']} of {total_steps}: loss {line['total']:.4g}  {terms}{score}{speed}")

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        problem = self._files[name].append(json.dumps(line))
        if problem:
            self._warn(problem)

    def _warn(self, message: str) -> None:
        Console(stderr=True).print(message, style="yellow", markup=False, highlight=False)


class LineFile:
    """Appends lines to a file. While the disk is full, lines wait in memory and are written with the next one that
    succeeds; a line that was written in part is removed first."""

    def __init__(self, path: Path) -> None:
        self.path, self._waiting = path, ""

    def append(self, line: str) -> str:
        """Write ``line``; what went wrong, in words, the first time it cannot be written, else empty."""
        first, self._waiting = not self._waiting, f"{self._waiting}{line}\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as out:
                out.write(self._waiting)
        except OSError as error:
            if self.path.exists():
                with open(self.path, "r+", encoding="utf-8") as out:
                    out.truncate(size)
            told = f"{self.path} cannot be written: {error}. Free some space: the run goes on, and these lines are kept"
            return told if first else ""
        self._waiting = ""
        return ""


def check_trackers(names: Iterable[str]) -> None:
    """Raise ValueError for a tracker that Accelerate does not have, or whose package is missing: Accelerate itself
    leaves the latter out without a message."""
    known = {str(tracker) for tracker in LoggerType} - {"all"}
    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in known:
            raise InvalidValueError(f"trackers has {name!r}; Accelerate has {', '.join(sorted(known))}")
        if name not in available:
            package = name.replace("_", "-")
            raise InvalidValueError(
                f"trackers has {name!r}, whose package is not installed: pip install {package}, or leave it out "
                "(log.jsonl has every number in any case)"
            )


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
