"""Rows read in worker processes, for readers that hold the GIL (pure Python tokenizers, decoders).

Threads are the default: decoders release the GIL, and nothing has to be copied between processes. With
workers, the same threads hand chunks of places to processes and copy what comes back into the batch, so
order, errors and values are the same.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from mmvicreg.errors import UserError
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import Item, Reader
from mmvicreg.stream.sample_reader import Place, Row, SampleReader


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to read any row."""

    index: ShardIndex
    readers: Mapping[str, Reader]
    seed: int
    substitutes: int
    shard_cache: ShardCache

    def rows(self) -> SampleReader:
        fetch = Fetcher(self.index, shard_cache=self.shard_cache)
        return SampleReader(fetch, self.readers, seed=self.seed, substitutes=self.substitutes)


class WorkerLostError(UserError, RuntimeError):
    """A worker process died: out of memory, or a crash in native code."""


class Workers:
    """``count`` processes that read rows; values travel as numpy arrays, not as shared file descriptors."""

    def __init__(self, setup: WorkerSetup, count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["mmvicreg.stream.workers"]
        )  # torch is imported once, not by every worker
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(setup,))

    def __call__(self, places: Sequence[Place]) -> list[Row]:
        """Rows of ``places``, in order. Raises what a reader raised, or WorkerLostError."""
        try:
            return [_thaw(row) for row in self._pool.submit(_read, places).result()]
        except BrokenProcessPool as error:
            raise WorkerLostError(
                f"a worker process died while it read rows such as {places[0]}: out of memory, or a crash in "
                "native code of a reader. Readers must be importable, and the script guarded by "
                'if __name__ == "__main__"'
            ) from error

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


_rows: SampleReader  # of a worker process, set once when it begins


def _begin(setup: WorkerSetup) -> None:
    global _rows
    # Ctrl-C reaches every process of the terminal; the main one ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _rows = setup.rows()


def _read(places: Sequence[Place]) -> list[tuple[Row, dict[str, object]]]:
    return [_freeze(_rows(place)) for place in places]


def _freeze(row: Row) -> tuple[Row, dict[str, object]]:
    values = {view: item.value.contiguous().numpy() for view, item in row.items.items() if item is not None}
    return Row(row.key, row.number, dict.fromkeys(row.items), row.notes), dict(values)


def _thaw(sent: tuple[Row, dict[str, object]]) -> Row:
    row, values = sent
    items = {view: Item(torch.from_numpy(values[view])) if view in values else None for view in row.items}
    return Row(row.key, row.number, items, row.notes)
