"""Signals that ask a run to write a checkpoint and end: from schedulers (SIGTERM, SIGUSR1) and Ctrl-C (SIGINT)."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERRUPTED = 128 + signal.SIGINT
"""exit status after Ctrl-C, by convention"""


class Preempted(SystemExit):
    """The run wrote its checkpoint and ends; the same command continues it. Exit status 0, or 130 after Ctrl-C."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(INTERRUPTED if number == signal.SIGINT else 0)
        self.step, self.name = step, signal.Signals(number).name

    def __str__(self) -> str:
        name = "Ctrl-C" if self.name == "SIGINT" else self.name
        return f"stopped by {name} after step {self.step}; the same command continues the run"


class Preemption:
    """Remembers a signal until the loop asks for it. As a context it installs handlers and restores the old ones.

    A second Ctrl-C raises KeyboardInterrupt at once. Handlers belong to the main thread: elsewhere nothing is caught.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._remember) for each in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        self.received = number
