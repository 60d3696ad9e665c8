"""Time and peak memory of functions on one device: interleaved, minimum over repetitions, own processes.

Times are CPU seconds of the process (all threads) on a CPU, so that other users of the machine do not count,
and event times on a GPU. Peak memory on a CPU is the growth of the process's high-water mark with every
larger allocation mapped on its own, each method in a process of its own; on a GPU the allocator's own peak.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

Step = Callable[[], object]
Result = TypeVar("Result")
PRELOADED = ("torch", "mmvicreg", "open_clip", "open_clip_train")
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""parameters of the C library's mallopt"""


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
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def apart(function: Callable[..., Result], *arguments: object, mapped: bool = True) -> Result:
    """``function(*arguments)`` in a new process with one thread.

    ``mapped``: the C library maps every allocation above 64 kB on its own, so what it keeps for itself does not
    count as memory. ``function`` must be at module level, since it is pickled by name.
    """
    # The fork server imports what the script has imported; each process is then a cheap fork of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.partition(".")[0] in PRELOADED])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, mapped, function, arguments))
    process.start()
    theirs.close()
    try:
        result: Result = ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{arguments} failed in its process") from None
    finally:
        process.join()
    return result


def _answer(
    pipe: Connection, mapped: bool, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    if mapped:
        library = ctypes.CDLL(None)
        for parameter in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            library.mallopt(parameter, 65536)
    torch.set_num_threads(1)
    pipe.send(function(*arguments))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"/proc/self/status has no {field}: peak memory on a CPU needs Linux")


def forward_backward(function: Callable[..., Tensor], *inputs: Tensor) -> Step:
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


def compiled(function: Callable[..., Tensor], *, tiny: bool) -> Callable[..., Tensor]:
    """``function`` compiled for its shape; ``tiny`` traces it only, because generating code takes many seconds."""
    return torch.compile(function, dynamic=False, backend="aot_eager" if tiny else "inductor")
