"""Where the time goes, and what is being waited for when nothing moves."""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmvicreg.branches.model import Branch, Model
from mmvicreg.stream.reader import Reader

STALLED = 75
"""Exit status of a process that its watchdog ended (EX_TEMPFAIL: try again)."""

PEAK_TFLOPS = {  # dense, from the vendors' data sheets: (fp32 with TF32 off, bf16 and fp16)
    "H200": (67.0, 989.0),
    "H100": (67.0, 989.0),
    "A100": (19.5, 312.0),
    "L40S": (91.6, 362.0),
    "L4": (30.3, 121.0),
    "V100": (15.7, 125.0),
}


@dataclass
class Clock:
    """Where the seconds between two log lines went."""

    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0

    def read(self) -> dict[str, float]:
        """Samples a second and the share of time spent waiting for data since the last reading."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        numbers = {"samples_per_second": self.samples / seconds, "data_wait": self.waited / seconds}
        self.started, self.waited, self.samples = time.perf_counter(), 0.0, 0
        return numbers


def memory(device: torch.device) -> dict[str, float]:
    """Largest memory so far in GB: of the process, and of the device's allocator on a GPU."""
    numbers = {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    if device.type == "cuda":
        numbers["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return numbers


def peak_flops(given_tflops: float, device: torch.device, precision: str) -> float:
    """Operations a second of one device: as given, or of a GPU we know; 0 where unknown."""
    if given_tflops or device.type != "cuda":
        return given_tflops * 1e12
    name = torch.cuda.get_device_name(device)
    known = [values for key, values in PEAK_TFLOPS.items() if key in name]
    return known[0][precision != "fp32"] * 1e12 if known else 0.0


@torch.no_grad()
def flops_per_sample(
    model: Model, readers: dict[str, Reader], *, precomputed: frozenset[str], device: torch.device
) -> float:
    """Operations (multiply and add are two) of the branches for one sample's training step, an estimate.

    Counted on a forward pass of two empty inputs in evaluation mode; what is trained counts three times, a
    frozen encoder once. Objective and optimizer are not counted: this is the numerator of MFU.
    """
    was_training = model.training
    model.eval()
    total = 0.0
    for view, reader in readers.items():
        branch = model.branch(view)
        x = torch.zeros((2, *reader.shape), dtype=reader.dtype, device=device)
        h = x if view in precomputed else None
        if h is None:
            with FlopCounterMode(display=False) as counted:
                h = branch.represent(x)
            total += counted.get_total_flops() / 2 * _passes(branch)
        with FlopCounterMode(display=False) as counted:
            branch.projector(h)
        total += counted.get_total_flops() / 2 * 3
    model.train(was_training)
    return total


def _passes(branch: Branch) -> int:
    return 1 if branch.frozen else 3


@contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """Where the body takes longer than ``seconds`` (0 is never), print ``message`` and end the process with status 75.

    For waits inside torch, which nothing else ends.
    """

    def give_up() -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(STALLED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watchdog:
    """A thread that speaks up when no step has been finished for ``warning`` seconds, and ends the process with
    status 75 after ``stop`` seconds, so that a launcher can start it again. 0 is never.

    ``report`` gets the message; the stacks of all threads are appended to ``stacks``.
    """

    def __init__(self, report: Callable[[str], None], stacks: Path, *, warning: float, stop: float) -> None:
        self.report, self.stacks, self.warning, self.stop = report, stacks, warning, stop
        self._phase = "starting"
        self._beat = self._warned = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mmvicreg-watchdog", daemon=True)

    def beat(self, phase: str) -> None:
        """Something was finished; ``phase`` is what begins now."""
        self._phase, self._beat = phase, time.monotonic()

    def __enter__(self) -> Watchdog:
        limits = [limit for limit in (self.warning, self.stop) if limit > 0]
        self._tick = min(limits, default=0.0) / 4
        if limits:
            self._beat = self._warned = time.monotonic()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(self._tick, 5.0)):
            now = time.monotonic()
            quiet = now - self._beat
            if 0 < self.stop <= quiet:
                self._tell(f"no step for {quiet:.0f} s ({self._phase}): the process ends itself")
                os._exit(STALLED)
            if 0 < self.warning <= min(quiet, now - self._warned):
                self._warned = now
                self._tell(f"no step for {quiet:.0f} s ({self._phase})")

    def _tell(self, message: str) -> None:
        with open(self.stacks, "a", encoding="utf-8") as file:
            file.write(f"{message}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        self.report(f"{message}; the stacks of all threads are in {self.stacks}")
