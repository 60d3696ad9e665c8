"""The stall watchdog: it reports what a run waits for when no step is finished, and ends the run after a limit."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

STALLED = 75
"""exit status of a process that its watchdog ended (EX_TEMPFAIL: try again)"""


@contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """Print ``message`` and end the process with status 75 if the body takes longer than ``seconds`` (0: no limit).

    For waits inside torch, which nothing else can end.
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


class StallWatchdog:
    """A thread that reports when no step was finished for ``warning`` seconds, and ends the process with status 75
    after ``stop`` seconds, so that a launcher can start it again. 0 is never.

    ``report`` gets the message; the stacks of all threads are appended to the file ``stacks``.
    """

    def __init__(self, report: Callable[[str], None], stacks: Path, *, warning: float, stop: float) -> None:
        self.report, self.stacks, self.warning, self.stop = report, stacks, warning, stop
        self._phase = "starting"
        self._beat = self._warned = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mmvicreg-watchdog", daemon=True)

    def beat(self, phase: str) -> None:
        """Say that something was finished; ``phase`` is what begins now."""
        self._phase, self._beat = phase, time.monotonic()

    def __enter__(self) -> StallWatchdog:
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
