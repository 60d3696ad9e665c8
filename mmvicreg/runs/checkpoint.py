"""Checkpoints: directories that are complete or do not exist, and hold tensors and JSON only.

step-00001000/
    weights.safetensors     the model, and what the objective learns or remembers (scales, queues)
    optimizer.safetensors   the optimizer's state by parameter name
    average.safetensors     the moving average of the weights, if the run keeps one
    momentum.safetensors    the momentum branches, if an alignment asks for them
    scaler.safetensors      the loss scale, in fp16
    state.json              step, samples and the state of every other part; size and checksum of every file

state.json is written last. There is no random state: every step seeds its own (see mmvicreg.randomness).
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.files import write_tensors
from mmvicreg.runs.tensors import fill

STATE = "state.json"
WEIGHTS, OPTIMIZER, AVERAGE, MOMENTUM, SCALER = (
    f"{name}.safetensors" for name in ("weights", "optimizer", "average", "momentum", "scaler")
)


@dataclass(frozen=True)
class Position:
    """What state.json says of a run at a step."""

    step: int
    consumed: int
    """samples seen until then"""
    processes: int
    """number of processes that wrote the checkpoint"""
    plan: str
    """fingerprint of the order of the data"""
    data: str = ""
    """fingerprint of the shards"""
    score: float | None = None
    """value of TrainConfig.best_metric, by which the best checkpoint is found"""
    seconds: float = 0.0
    """time spent training, over all starts"""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``state_dict`` of every part of the run whose state is JSON, by name: counters, alarms, sample counts"""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, copied to host memory: {file: {name: tensor}}. Training may go on."""

    position: Position
    files: dict[str, dict[str, Tensor]]


def checkpoint_path(folder: Path, step: int) -> Path:
    """The directory of one step's checkpoint."""
    return folder / f"step-{step:08d}"


def write(folder: Path, snapshot: Snapshot) -> Path:
    """Write the checkpoint of ``snapshot`` into ``folder``. Raises OSError (a full disk), and then leaves no trace."""
    step = snapshot.position.step
    partial, final = folder / f".step-{step:08d}.partial", checkpoint_path(folder, step)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, tensors in snapshot.files.items():
            write_tensors(partial / name, tensors)
        files = {file.name: _sum(file) for file in sorted(partial.iterdir())}
        content = {"format": 3, **asdict(snapshot.position), "files": files}
        (partial / STATE).write_text(json.dumps(content, indent=1))
        for file in partial.iterdir():
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(f"{partial}: {error}") from error  # safetensors raises errors of its own
        raise
    return final


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sum(file: Path) -> list[int]:
    """[bytes, CRC-32]."""
    crc, size = 0, 0
    with open(file, "rb") as content:
        while block := content.read(1 << 22):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [size, crc]


def remove_old(folder: Path, *, keep: int) -> None:
    """Remove all checkpoints but the newest ``keep`` and the one with the highest score."""
    found = complete_checkpoints(folder)
    kept = {*found[-keep:], *best_checkpoint(folder)}
    for path in set(found) - kept:
        shutil.rmtree(path)


def best_checkpoint(folder: Path) -> list[Path]:
    """The checkpoint with the highest score, the newest of equals; none if none has a score."""
    scores = {path: read_position(path).score for path in complete_checkpoints(folder)}
    known = {path: score for path, score in scores.items() if score is not None}
    return [max(known, key=lambda path: (known[path], path))] if known else []


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in which every file has the size it was written with, oldest first."""
    return [path for path in sorted(folder.glob("step-*")) if _is_complete(path)]


def _is_complete(path: Path) -> bool:
    try:
        files = json.loads((path / STATE).read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, (size, _) in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are what was written, and what was wrong with newer ones."""
    wrong: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if not _is_complete(path):
            wrong.append(f"{path} is incomplete: a file is missing or cut short")
            continue
        files = json.loads((path / STATE).read_text(encoding="utf-8"))["files"]
        damaged = [name for name, written in files.items() if _sum(path / name) != written]
        if not damaged:
            return path, wrong
        wrong.append(f"{path} is damaged: {', '.join(damaged)} changed after it was written")
    return None, wrong


def set_aside(folder: Path, path: Path | None) -> None:
    """Rename checkpoints newer than ``path``, the newest whole one, so that they do not count among those kept.

    A damaged step-00000020 becomes .step-00000020.damaged.
    """
    for newer in sorted(folder.glob("step-*")):
        if path is None or newer.name > path.name:
            hidden = newer.with_name(f".{newer.name}.damaged")
            shutil.rmtree(hidden, ignore_errors=True)
            newer.rename(hidden)


def verify(path: Path, *names: str) -> None:
    """Raise ValueError if one of these files of a checkpoint is not what was written."""
    written = json.loads((path / STATE).read_text(encoding="utf-8"))["files"]
    for name in names:
        if name in written and _sum(path / name) != written[name]:
            raise InvalidValueError(
                f"{path / name} changed after it was written: its checksum is another; choose another checkpoint"
            )


def read_position(path: Path) -> Position:
    """The position that a checkpoint was written at."""
    content = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Position(**{name: content[name] for name in Position.__dataclass_fields__ if name in content})


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """One file of a checkpoint. Raises FileNotFoundError if it has none of that name."""
    file = path / name
    if not file.is_file():
        there = ", ".join(sorted(each.name for each in path.glob("*.safetensors")))
        raise MissingFileError(f"{path} has no {name}; it has {there}")
    return load_file(file)


def read_model(path: Path, model: nn.Module, *, file: str = WEIGHTS) -> None:
    """Weights of the model alone. Raises ValueError if the file does not fit the model."""
    prefix = "model."
    found = read_tensors(path, file)
    fill(
        model,
        {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)},
        source=path / file,
    )
