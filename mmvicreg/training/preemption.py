"""SIGTERM and SIGUSR1 ask a run to write a checkpoint and leave: what schedulers send before they kill."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """The run wrote its checkpoint and ends with exit status 0; the same command continues it."""

    def __init__(self, step: int, name: str) -> None:
        super().__init__(0)
        self.step, self.name = step, name

    def __str__(self) -> str:
        return f"stopped by {self.name} after step {self.step}; the same command continues the run"


class Preemption:
    """Remembers a signal until the loop asks. As a context it takes the handlers and puts the old ones back.

    Handlers belong to the main thread: elsewhere nothing is caught.
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
        self.received = number
