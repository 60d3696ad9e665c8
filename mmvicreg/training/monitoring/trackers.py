"""Accelerate's trackers beside the log: TensorBoard, trackio, wandb and whatever else it has; all optional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from mmvicreg.errors import InvalidValueError


def check_trackers(names: Iterable[str]) -> None:
    """Raise ValueError for a tracker that Accelerate does not have, or whose package is missing: Accelerate itself
    leaves the latter out without a word."""
    known = {str(tracker) for tracker in LoggerType} - {"all"}
    there = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in known:
            raise InvalidValueError(f"trackers has {name!r}; Accelerate has {', '.join(sorted(known))}")
        if name not in there:
            package = name.replace("_", "-")
            raise InvalidValueError(
                f"trackers has {name!r}, whose package is not installed: pip install {package}, or leave it out "
                "(log.jsonl has every number in any case)"
            )


def begin_trackers(
    accelerator: Accelerator, folder: Path, settings: Mapping[str, float], *, step: int
) -> None:
    """Open the trackers for a run that stands at ``step``.

    TensorBoard goes on in the same curves; others get a run for each start, named by its first step.
    """
    name = {"name": f"{folder.name} from step {step}"}
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1} if step else {},
        "trackio": name,
        "wandb": name,
    }
    accelerator.init_trackers(folder.name, config=dict(settings), init_kwargs=options)


def finish_trackers(accelerator: Accelerator) -> None:
    """Write what is left. (Accelerate's ``end_training`` would end the process group too.)"""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers.clear()
