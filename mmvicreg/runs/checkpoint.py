"""Checkpoints: directories that are complete or do not exist, and hold tensors and JSON only.

step-00001000/
    weights.safetensors     the model, and what the objective learns or remembers (scales, queues)
    optimizer.safetensors   the optimizer's state by parameter name
    average.safetensors     the moving average of the weights, where the run keeps one
    momentum.safetensors    the momentum branches, where an alignment asks for them
    scaler.safetensors      the scale of the loss, in fp16
    state.json              where the run stands; size and checksum of every file: written last

No random state: every step seeds its own (see mmvicreg.training.step). Tensors are whole whatever the number of
processes and however the weights are shared among them.
"""

from __future__ import annotations

from mmvicreg.files import write_tensors
from mmvicreg.errors import InvalidValueError, MissingFileError

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

STATE = "state.json"
WEIGHTS, OPTIMIZER, AVERAGE, MOMENTUM, SCALER = (
    f"{name}.safetensors" for name in ("weights", "optimizer", "average", "momentum", "scaler")
)
SEPARATOR = " "


@dataclass(frozen=True)
class Position:
    """Where a run stands."""

    step: int
    consumed: int
    """samples seen by these steps"""
    processes: int
    """over how many processes the checkpoint was written"""
    plan: str
    """fingerprint of the order of the data"""
    data: str = ""
    """fingerprint of the shards"""
    learning_rate_scale: float = 1.0
    """what rolling back has made of the learning rate"""
    rollbacks: int = 0
    score: float | None = None
    """the number that says which checkpoint is best"""
    seconds: float = 0.0
    """time spent training, over all continuations"""
    counts: dict[str, Any] = field(default_factory=dict)
    """what was recovered, rejected and missing so far, over all processes (see ledger.Counts)"""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, copied to host memory: {file: {name: tensor}}. The run may go on."""

    position: Position
    files: dict[str, dict[str, Tensor]]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the host, whole, tied ones once; every process calls this."""
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    found = {}
    for name, value in module.state_dict().items():
        local = value.to_local() if isinstance(value, DTensor) else value
        identity = (local.data_ptr(), tuple(local.shape), tuple(local.stride()))
        if local.numel() and identity in seen:
            continue
        seen.add(identity)
        found[name] = _whole(value)
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state on the host as {"parameter kind": tensor}; every process calls this."""
    return {
        f"{name}{SEPARATOR}{kind}": _whole(value)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _whole(value: Tensor) -> Tensor:
    """A contiguous host copy that nothing else writes to."""
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().to("cpu", copy=True).contiguous()


def checkpoint_path(folder: Path, step: int) -> Path:
    """The directory of one step's checkpoint."""
    return folder / f"step-{step:08d}"


def write(folder: Path, snapshot: Snapshot) -> Path:
    """Make the checkpoint appear, whole. Raises OSError (a full disk); then there is no trace of it."""
    step = snapshot.position.step
    partial, final = folder / f".step-{step:08d}.partial", checkpoint_path(folder, step)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, tensors in snapshot.files.items():
            write_tensors(partial / name, tensors)
        files = {file.name: _sum(file) for file in sorted(partial.iterdir())}
        content = {"format": 2, **asdict(snapshot.position), "files": files}
        (partial / STATE).write_text(json.dumps(content, indent=1))
        for file in partial.iterdir():
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(f"{partial}: {error}") from error  # safetensors has an error of its own
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
    """The checkpoint with the highest score, the newest of equals; none where none has a score."""
    scores = {path: read_position(path).score for path in complete_checkpoints(folder)}
    known = {path: score for path, score in scores.items() if score is not None}
    return [max(known, key=lambda path: (known[path], path))] if known else []


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in which every file has the size it was written with, oldest first."""
    return [path for path in sorted(folder.glob("step-*")) if _is_complete(path)]


def _is_complete(path: Path) -> bool:
    try:
        files = json.loads((path / STATE).read_text())["files"]
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
        files = json.loads((path / STATE).read_text())["files"]
        damaged = [name for name, written in files.items() if _sum(path / name) != written]
        if not damaged:
            return path, wrong
        wrong.append(f"{path} is damaged: {', '.join(damaged)} changed after it was written")
    return None, wrong


def set_aside(folder: Path, path: Path | None) -> None:
    """Hide what is newer than ``path``, the newest whole checkpoint: it must not count among those that are kept.

    A damaged step-00000020 becomes .step-00000020.damaged.
    """
    for newer in sorted(folder.glob("step-*")):
        if path is None or newer.name > path.name:
            hidden = newer.with_name(f".{newer.name}.damaged")
            shutil.rmtree(hidden, ignore_errors=True)
            newer.rename(hidden)


def verify(path: Path, *names: str) -> None:
    """Raise ValueError where one of these files of a checkpoint is not what was written."""
    written = json.loads((path / STATE).read_text())["files"]
    for name in names:
        if name in written and _sum(path / name) != written[name]:
            raise InvalidValueError(
                f"{path / name} changed after it was written: its checksum is another; choose another checkpoint"
            )


def read_position(path: Path) -> Position:
    """Where the run stood."""
    content = json.loads((path / STATE).read_text())
    return Position(**{name: content[name] for name in Position.__dataclass_fields__ if name in content})


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """One file of a checkpoint. Raises FileNotFoundError where it has none of that name."""
    file = path / name
    if not file.is_file():
        there = ", ".join(sorted(each.name for each in path.glob("*.safetensors")))
        raise MissingFileError(f"{path} has no {name}; it has {there}")
    return load_file(file)


@torch.no_grad()
def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Put tensors into a module. Raises ValueError naming what is missing, left over or of another shape."""
    state = module.state_dict()
    filled = {_storage(state[name]) for name in tensors if name in state}
    # Tied weights are stored once: a name may be missing where its storage is filled under another name.
    missing = [name for name in state if name not in tensors and _storage(state[name]) not in filled]
    extra = [name for name in tensors if name not in state]
    if missing or extra:
        raise InvalidValueError(
            f"{source} does not fit the configuration: missing {missing[:3]}, unexpected {extra[:3]}"
        )
    for name, value in tensors.items():
        if state[name].shape != value.shape:
            raise InvalidValueError(
                f"{source} does not fit the configuration: {name} is {tuple(value.shape)} there and "
                f"{tuple(state[name].shape)} here"
            )
        state[name].copy_(_placed_as(state[name], value))


def _storage(value: Tensor) -> int:
    return (value.to_local() if isinstance(value, DTensor) else value).data_ptr()


def _placed_as(like: Tensor, value: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the optimizer's state back; learning rates and decays are the configuration's, not the file's."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, kind = key.rpartition(SEPARATOR)
        by_name.setdefault(name, {})[kind] = value
    members = [
        pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)
    ]
    state = {
        number: {
            kind: _like(parameter, value) if kind != "step" else value
            for kind, value in by_name[name].items()
        }
        for number, (name, parameter) in enumerate(members)
        if name in by_name
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` where and how ``parameter`` lies in memory: fused kernels walk both side by side."""
    made = torch.empty_like(parameter, dtype=value.dtype)
    made.copy_(_placed_as(parameter, value))
    return made


def scaler_tensors(scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """The loss scale of fp16 training."""
    return {name: torch.tensor(float(value)) for name, value in scaler.state_dict().items()}


def fill_scaler(scaler: torch.amp.GradScaler, tensors: Mapping[str, Tensor]) -> None:
    """Put the loss scale back."""
    state = {name: float(value) for name, value in tensors.items()}
    whole = {name: int(state[name]) for name in ("growth_interval", "_growth_tracker") if name in state}
    scaler.load_state_dict(state | whole)


def read_model(path: Path, model: nn.Module, *, file: str = WEIGHTS) -> None:
    """Weights of the model alone. Raises ValueError where the file does not fit the model."""
    prefix = "model."
    found = read_tensors(path, file)
    fill(
        model,
        {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)},
        source=path / file,
    )
