"""A run directory describes itself: configuration, environment, log, checkpoints; and the model from it.

config.json        the configuration, with the import path of every modality's class, and the views
environment.json   versions, revision, command, machine
log.jsonl          one line of numbers every few steps
events.jsonl       in words: alarms, skipped steps, checkpoints that could not be written
heads.json         of a solved run, or one that started from it: which heads its projectors are
checkpoints/       see mmvicreg.runs.checkpoint
"""

from __future__ import annotations

from mmvicreg.errors import InvalidValueError, MissingFileError

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from mmvicreg.runs import checkpoint
from mmvicreg.files import write_json, write_text
from mmvicreg.runs.config import RunConfig, TrainConfig, differences, from_json, import_recipe, to_json
from mmvicreg.modalities.modality import Modality
from mmvicreg.branches import head as heads
from mmvicreg.branches.model import Model
from mmvicreg.objectives.predictors import Predictors
from mmvicreg.objectives.predictors import read as read_predictors

CONFIG = "config.json"
LOG = "log.jsonl"
EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Run:
    """A run read back: its model carries the weights of one checkpoint and is in evaluation mode."""

    folder: Path
    config: dict[str, Any]
    """the saved configuration, as JSON values"""
    modalities: dict[str, Modality]
    model: Model
    step: int
    """the step the weights are from"""
    predictors: Predictors = field(default_factory=dict)
    """what the objective learned to predict, by (from branch, to branch)"""


def load(
    folder: str | Path,
    *,
    recipe: str | Path | None = None,
    step: int | Literal["best"] | None = None,
    average: bool = False,
) -> Run:
    """Rebuild the model of a run directory, with the newest complete checkpoint or that of ``step``.

    ``step`` "best" is the one with the highest score (see TrainConfig.best_metric); ``average`` takes the moving
    average of the branches' weights that the run kept.
    ``recipe`` names the file that defines modalities which are not this package's; it is executed. Raises
    FileNotFoundError where there is no run or no complete checkpoint, ValueError where files do not fit.
    """
    saved = read_config(Path(folder))
    module = import_recipe(recipe) if recipe is not None else None
    used = set(saved["views"].values())
    modalities: dict[str, Modality] = {
        name: from_json(value, recipe=module) for name, value in saved["config"].items() if name in used
    }
    return rebuild(Path(folder), saved, modalities, step=step, average=average)


def rebuild(
    folder: Path,
    saved: dict[str, Any],
    modalities: dict[str, Modality],
    *,
    step: int | Literal["best"] | None = None,
    average: bool = False,
) -> Run:
    """The run of ``folder`` from what its config.json holds and its modalities; see :func:`load`."""
    modalities = {name: _without_weights(modality) for name, modality in modalities.items()}
    path = _checkpoint(folder, step)
    model = Model({name: modality.branch() for name, modality in modalities.items()}, saved["views"])
    place_heads(model, folder, path / checkpoint.WEIGHTS)
    file = checkpoint.AVERAGE if average else checkpoint.WEIGHTS
    checkpoint.verify(path, checkpoint.WEIGHTS, file)
    checkpoint.read_model(path, model, file=file)
    predictors = read_predictors(folder, path / checkpoint.WEIGHTS)
    step_number = checkpoint.read_position(path).step
    return Run(folder, saved["config"], modalities, model.eval(), step_number, predictors)


def start_from(model: Model, folder: Path) -> None:
    """Give ``model`` the weights of the newest checkpoint of the run in ``folder``, and its heads where it was solved.

    Raises FileNotFoundError where there is none, ValueError where its branches do not fit the model's.
    """
    saved = read_config(folder)
    branches = set(saved["views"].values())
    if branches != set(model.branches):
        raise InvalidValueError(
            f"init: {folder} has the branches {sorted(branches)}, this run has {sorted(model.branches)}"
        )
    path = _checkpoint(folder, None)
    place_heads(model, folder, path / checkpoint.WEIGHTS)
    checkpoint.verify(path, checkpoint.WEIGHTS)
    checkpoint.read_model(path, model)


def place_heads(model: Model, folder: Path, weights: Path) -> None:
    """Give ``model`` the solved heads that ``folder`` describes in place of its projectors, without their values, which
    the file ``weights`` holds. Raises ValueError where they cannot be."""
    for name, head in heads.read(folder, stored=weights.stat().st_size).items():
        model.branch_named(name).projector = head


def _without_weights(modality: Any) -> Modality:
    """The weights of a run are in its checkpoint: where they came from at first need not exist any more."""
    if any(item.name == "weights" for item in fields(modality)):
        return replace(modality, weights="")
    return modality


def _checkpoint(folder: Path, step: int | Literal["best"] | None) -> Path:
    found = checkpoint.complete_checkpoints(folder / CHECKPOINTS)
    if not found:
        raise MissingFileError(
            f"{folder}: no complete checkpoint in {folder / CHECKPOINTS}; train it further first"
        )
    if step is None:
        return found[-1]
    if step == "best":
        best = checkpoint.best_checkpoint(folder / CHECKPOINTS)
        if not best:
            raise MissingFileError(
                f"{folder}: no checkpoint has a score; train with --best-metric and --validation.data"
            )
        return best[0]
    wanted = checkpoint.checkpoint_path(folder / CHECKPOINTS, step)
    if wanted not in found:
        steps = ", ".join(str(checkpoint.read_position(path).step) for path in found)
        raise MissingFileError(f"{folder}: no complete checkpoint of step {step}; there are {steps}")
    return wanted


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run directory. Raises FileNotFoundError or ValueError with the next move."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such run directory")
    file = folder / CONFIG
    if not file.is_file():
        raise MissingFileError(
            f"{folder} is not a run directory: it has no {CONFIG}; runs are made by recipes"
        )
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(saved, dict) or not {"config", "views"} <= set(saved):
        raise InvalidValueError(f"{file}: expected the keys 'config' and 'views', found {sorted(saved)[:5]}")
    return saved


def open_run(config: RunConfig, *, saved: dict[str, Any] | None = None) -> Path:
    """The run directory of ``config``: new, or one that may be continued. ``saved`` is what config.json holds, where
    that is more than ``config`` itself.

    Raises ValueError naming every field that differs from the run found there, if that has a checkpoint.
    """
    folder = Path(config.out)
    content = saved or _content(config)
    if (folder / CONFIG).is_file():
        if config.resume == "restart":
            folder.rename(folder.with_name(f"{folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
        elif config.resume == "never":
            raise InvalidValueError(f"{folder} holds a run; choose another --out, or --resume auto to continue it")
        elif any((folder / CHECKPOINTS).glob("step-*")):  # without one there is nothing to continue
            _refuse_other(folder, content["config"], config.allow_change)
    elif folder.is_dir() and any(folder.iterdir()):
        raise InvalidValueError(f"{folder} is not empty and holds no run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, content)
    write_json(folder / "environment.json", environment())
    return folder


def write_config(config: TrainConfig) -> None:
    """config.json of the run directory."""
    write_json(Path(config.out) / CONFIG, _content(config))


def _content(config: RunConfig) -> dict[str, Any]:
    return {"config": to_json(config), "views": config.views()}


def _refuse_other(folder: Path, given: dict[str, Any], allowed: tuple[str, ...]) -> None:
    found = differences(read_config(folder)["config"], given, allowed=allowed)
    if found:
        listed = "\n  ".join(found)
        raise InvalidValueError(
            f"{folder} holds a run of another configuration (saved -> given):\n  {listed}\n"
            "choose another --out, set these fields back to continue it, --allow-change FIELD to continue all the "
            "same, or --resume restart to move it aside"
        )


def environment() -> dict[str, Any]:
    """What one needs to know of where a run was made."""
    import torch

    packages = (
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "open_clip_torch",
        "accelerate",
        "numpy",
        "mmvicreg",
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "git": _revision(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "cpus": os.cpu_count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def cut_log(folder: Path, step: int) -> None:
    """Drop log lines of steps after ``step``: a continued run writes them again."""
    file = folder / LOG
    if not file.is_file():
        return
    kept = [line for line in file.read_text().splitlines() if _step(line) <= step]
    write_text(file, "".join(line + "\n" for line in kept))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut by a kill


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Every line of the log."""
    file = folder / LOG
    if not file.is_file():
        raise MissingFileError(f"{folder}: no {LOG}; has the run taken a step?")
    return [json.loads(line) for line in file.read_text().splitlines() if _step(line) < float("inf")]
