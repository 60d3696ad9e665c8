"""The asynchronous checkpoint writer: a thread writes checkpoints while training goes on."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mmvicreg.runs.checkpoint import Snapshot, remove_old, write


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread; the next one waits for it. Only the main process has a writer.

    A checkpoint that cannot be written (full disk) leaves the earlier ones in place and the run going; the error is
    kept for :meth:`problem`, and :meth:`close` raises it if it was the last checkpoint.
    """

    def __init__(self, folder: Path, *, keep: int, every: int, minutes: float) -> None:
        """Checkpoints go to ``folder``, the newest ``keep`` are kept; due ``every`` steps and, above 0, ``minutes``."""
        self.folder, self.keep, self.every, self.minutes = folder, keep, every, minutes
        self.failed: OSError | None = None
        self._reported = True
        self._last = time.monotonic()  # a wall clock may jump
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mmvicreg-checkpoint")
        self._writing: Future[None] | None = None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after ``step`` steps, by steps or by minutes."""
        late = self.minutes > 0 and time.monotonic() - self._last >= 60 * self.minutes
        return step % self.every == 0 or late

    def save(self, snapshot: Snapshot) -> None:
        """Write ``snapshot`` in the background."""
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
            free = shutil.disk_usage(self.folder.parent).free  # the folder itself may not exist yet
            self.failed = OSError(
                f"checkpoint of step {snapshot.position.step} was not written: {error}; it takes "
                f"{needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free at {self.folder}. Free some space: "
                "the earlier checkpoints are whole, and the next one is tried when it is due"
            )
            self._reported = False

    def problem(self) -> str:
        """What went wrong since the last call; empty if nothing did."""
        if self._reported or self.failed is None:
            return ""
        self._reported = True
        return str(self.failed)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Wait, and raise OSError if the last checkpoint could not be written."""
        self.wait()
        self._pool.shutdown()
        if self.failed is not None:
            raise self.failed
