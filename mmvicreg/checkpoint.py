"""Checkpoints: directories that are complete or do not exist, and hold nothing that runs code when read.

step-00001000/
    weights.safetensors     the model and what the objective learns
    optimizer.pt            tensors and plain values only (read with weights_only)
    random-0.pt ...         the random state of every process
    state.json              step, processes, and the size of every file: written last
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_model
from torch import nn

STATE = "state.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.pt"


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps taken, over how many processes the checkpoint was written, and on what order."""

    step: int
    processes: int
    plan: str


def checkpoint_path(folder: Path, step: int) -> Path:
    """The directory of one step's checkpoint."""
    return folder / f"step-{step:08d}"


def begin(folder: Path, step: int) -> Path:
    """An empty directory to write a checkpoint into; it becomes one with :func:`finish`."""
    partial = folder / f".step-{step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def write_random_state(partial: Path, rank: int) -> None:
    """Every process writes its own."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    torch.save(state, partial / f"random-{rank}.pt")


def write_state(partial: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights and optimizer; one process writes them."""
    save_model(module, str(partial / WEIGHTS))
    torch.save(optimizer.state_dict(), partial / OPTIMIZER)


def finish(partial: Path, position: Position, *, keep: int) -> Path:
    """Make the checkpoint appear, whole, and remove all but the newest ``keep``."""
    sizes = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
    content = {"format": 1, **vars(position), "bytes": sizes}
    (partial / STATE).write_text(json.dumps(content, indent=1))
    for file in partial.iterdir():
        _flush(file)
    final = checkpoint_path(partial.parent, position.step)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(final.parent)
    for old in complete_checkpoints(final.parent)[:-keep]:
        shutil.rmtree(old)
    return final


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in which every file has the size it was written with, oldest first."""
    return [path for path in sorted(folder.glob("step-*")) if _is_complete(path)]


def _is_complete(path: Path) -> bool:
    try:
        sizes = json.loads((path / STATE).read_text())["bytes"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_position(path: Path) -> Position:
    """Where the run stood."""
    content = json.loads((path / STATE).read_text())
    return Position(step=content["step"], processes=content["processes"], plan=content["plan"])


def read_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer back. Raises RuntimeError where they do not fit."""
    load_model(module, str(path / WEIGHTS))
    optimizer.load_state_dict(torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True))


def read_random_state(path: Path, rank: int) -> None:
    """Put this process's random state back, where the checkpoint has one for it."""
    file = path / f"random-{rank}.pt"
    if not file.is_file():
        return  # more processes than before: the order of the data is the same, dropout masks are not
    state = torch.load(file, map_location="cpu", weights_only=True)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def read_model(path: Path, model: nn.Module, *, prefix: str = "model.") -> None:
    """Weights of the model alone. Raises ValueError where the file does not fit the model."""
    found = load_file(path / WEIGHTS)
    state = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path / WEIGHTS}: shapes do not fit the saved configuration: {error}") from None
    stored = {value.data_ptr() for name, value in model.state_dict().items() if name not in missing}
    # Tied weights are stored once: a missing name is fine where its storage was filled under another name.
    lost = [name for name in missing if model.state_dict()[name].data_ptr() not in stored]
    if lost or unexpected:
        raise ValueError(
            f"{path / WEIGHTS} does not fit the saved configuration: missing {lost[:3]}, unexpected {unexpected[:3]}"
        )
