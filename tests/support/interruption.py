"""Interrupt a training run at a chosen step, and compare two finished runs bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

import mmvicreg as mm
from mmvicreg.runs.checkpoint import complete_checkpoints
from mmvicreg.runs.run import read_log

TIMES = {"samples_per_second", "data_wait", "memory_gb", "gpu_memory_gb", "mfu"}


class Interrupted(RuntimeError):
    """Pulled the plug."""


def interrupt_at(objective: mm.Objective, step: int, happen: Callable[[], None]) -> mm.Objective:
    """The same objective; ``happen`` is called before each of its training steps from ``step`` on."""
    left = step

    def count(module: nn.Module, *_: Any) -> None:
        nonlocal left
        if module.training:
            left -= 1
            if left < 0:
                happen()

    objective.register_forward_pre_hook(count)
    return objective


def pull_the_plug() -> None:
    raise Interrupted


def final(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, Any]]]:
    """Weights, optimizer and log of a finished run, less what depends on the clock."""
    last = complete_checkpoints(folder / "checkpoints")[-1]
    log = [{key: value for key, value in line.items() if key not in TIMES} for line in read_log(folder)]
    return load_file(last / "weights.safetensors"), load_file(last / "optimizer.safetensors"), log


def assert_same(a: Path, b: Path) -> None:
    """Bit for bit."""
    for one, other in zip(final(a)[:2], final(b)[:2], strict=True):
        assert one.keys() == other.keys() and one
        wrong = [name for name in one if not one[name].equal(other[name])]
        assert not wrong
    assert final(a)[2] == final(b)[2]
