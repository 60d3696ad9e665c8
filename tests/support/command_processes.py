"""Commands in processes of their own, which start within milliseconds: torch and the package are loaded once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "toy", "mmvicreg.evaluation.embed", "mmvicreg.preparation.check"])
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Disturbance:
    """What a command's process is given: ``kill_at`` sends it SIGKILL before its operation of that number; ``user``:
    the number of the user it becomes; ``prepare`` is called first, and has a name that the process can import."""

    kill_at: int = 0
    user: int = 0
    prepare: Callable[[], object] | None = None


@dataclass
class Started:
    """A command that runs; :meth:`result` waits for it."""

    process: ForkServerProcess
    answers: Connection

    def result(self) -> tuple[int, int]:
        """(exit status, file operations there were)."""
        try:
            count = self.answers.recv()
        except EOFError:
            count = 0
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode, count


def begin(command: list[str], folder: Path, disturbance: Disturbance = Disturbance()) -> Started:
    """Start ``mmvicreg COMMAND ...``; operations on files under ``folder`` are counted, and the cache lies there."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(command, str(folder), disturbance, theirs))
    process.start()
    theirs.close()
    return Started(process, ours)


def _operations(folder: str, happen: Callable[[], None]) -> None:
    """Call ``happen`` before every operation of this process that changes a file under ``folder``."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
        changes |= event == "open" and bool((arguments[2] or 0) & WRITING)
        if changes and isinstance(arguments[0], (str, os.PathLike)):
            if os.fspath(arguments[0]).startswith(folder):
                happen()

    sys.addaudithook(hook)


def _run(command: list[str], folder: str, disturbance: Disturbance, counted: Connection) -> None:
    from mmvicreg.cli.main import main

    os.environ["MMVICREG_CACHE"] = f"{folder}/cache"
    if disturbance.prepare is not None:
        disturbance.prepare()
    if disturbance.user:
        os.setgid(disturbance.user)
        os.setuid(disturbance.user)
    done = 0

    def happen() -> None:
        nonlocal done
        done += 1
        if done == disturbance.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    _operations(folder, happen)
    status = main(command)
    counted.send(done)
    sys.exit(status)
