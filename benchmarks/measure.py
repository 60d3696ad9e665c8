"""Time and peak memory of functions on one device: interleaved, minimum over repetitions, own processes.

Times are CPU seconds of the process (all threads) on a CPU, so that other users of the machine do not count,
and event times on a GPU. Peak memory on a CPU is the growth of the process's high-water mark with every
larger allocation mapped on its own, each method in a process of its own; on a GPU the allocator's own peak.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Step = Callable[[], object]


def best_times(steps: dict[str, Step], *, repetitions: int, budget: float = 60.0) -> dict[str, float]:
    """Seconds per step: the best of ``repetitions`` rounds in turn, within about ``budget`` s of them.

    Quick steps run several times a round, so that slow and quick ones are timed over the same moments.
    """
    best: dict[str, float] = {}
    for name, step in steps.items():
        if name.endswith("compiled"):
            step()
        best[name] = _seconds(step)
    start = time.monotonic()
    for _ in range(repetitions - 1):
        if time.monotonic() - start > budget:
            break
        for name, step in steps.items():
            for _ in range(max(1, min(10, int(0.5 / best[name])))):
                best[name] = min(best[name], _seconds(step))
    return best


def _seconds(step: Step) -> float:
    if torch.cuda.is_available():
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        first.record()
        step()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3
    before = time.process_time()
    step()
    return time.process_time() - before


def peak_bytes(step: Step, *, warm_up: Step) -> int:
    """Most memory held at once during ``step``, beyond what is held before it and after ``warm_up``."""
    warm_up()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def peak_of(script: str, *arguments: str) -> int:
    """``peak_bytes`` as printed by ``script --peak ARGUMENTS`` in a process of its own."""
    variables = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, script, "--peak", *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return int(done.stdout.split()[-1])


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"/proc/self/status has no {field}: peak memory on a CPU needs Linux")


def forward_backward(function: Callable[[Tensor], Tensor], *inputs: Tensor) -> Step:
    """A step that differentiates ``function(*inputs)`` and drops the gradients."""

    def step() -> None:
        torch.autograd.grad(function(*inputs), inputs)

    return step


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
