"""Writes checkpoints while training goes on, and says when one is due."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mmvicreg.runs.checkpoint import Snapshot, remove_old, write


class CheckpointWriter:
    """One checkpoint is written at a time, in a thread; a second one waits for it. One process has a keeper.

    A checkpoint that cannot be written (disk full) leaves those before it in place and the run going; the
    error is kept for :meth:`problem`, and :meth:`close` raises it if it was the last one.
    """

    def __init__(self, folder: Path, *, keep: int, every: int, minutes: float) -> None:
        self.folder, self.keep, self.every, self.minutes = folder, keep, every, minutes
        self.failed: OSError | None = None
        self._told = True
        self._last = time.monotonic()  # a wall clock may jump
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mmvicreg-checkpoint")
        self._writing: Future[None] | None = None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after ``step`` steps, by steps or by minutes."""
        late = self.minutes > 0 and time.monotonic() - self._last >= 60 * self.minutes
        return step % self.every == 0 or late

    def save(self, snapshot: Snapshot) -> None:
        """Write it in the background."""
        self.wait()
        self._last = time.monotonic()
        self._writing = self._pool.submit(self._write, snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        try:
            write(self.folder, snapshot)
            remove_old(self.folder, keep=self.keep)
            self.failed = None
        except OSError as error:
            needed = sum(value.nbytes for each in snapshot.files.values() for value in each.values())
            free = shutil.disk_usage(self.folder.parent).free  # the folder itself may not have been made
            self.failed = OSError(
                f"checkpoint of step {snapshot.position.step} was not written: {error}; it takes "
                f"{needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free at {self.folder}. Make room: "
                "the checkpoints before it are whole, and the next one is tried when due"
            )
            self._told = False

    def problem(self) -> str:
        """What went wrong since the last call; empty where nothing did."""
        if self._told or self.failed is None:
            return ""
        self._told = True
        return str(self.failed)

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Wait, and raise OSError where the last checkpoint could not be written."""
        self.wait()
        self._pool.shutdown()
        if self.failed is not None:
            raise self.failed
