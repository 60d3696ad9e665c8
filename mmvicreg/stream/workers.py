"""Samples read in worker processes, for readers that hold the interpreter's lock (tokenizers in Python, decoders).

Threads are the default: decoders release the lock, and nothing has to be copied between processes. With workers, the
same threads send chunks of locations to processes and copy the results into the batch, so order, errors and values
are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

import torch

from mmvicreg.errors import UserError
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import Item, Reader
from mmvicreg.stream.sample_reader import Location, ReadSample, SampleReader


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to read any sample."""

    index: ShardIndex
    readers: Mapping[str, Reader]
    seed: int
    substitutes: int
    shard_cache: ShardCache

    def samples(self) -> SampleReader:
        """Reads any sample with the readers."""
        fetch = Fetcher(self.index, shard_cache=self.shard_cache)
        return SampleReader(fetch, self.readers, seed=self.seed, substitutes=self.substitutes)


class WorkerLostError(UserError, RuntimeError):
    """A worker process ended: out of memory, or a crash in native code."""


class Workers:
    """``count`` processes that read samples; values are sent as numpy arrays, not as shared file descriptors."""

    def __init__(self, setup: WorkerSetup, count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        # torch is imported once, not by every worker.
        context.set_forkserver_preload(["mmvicreg.stream.workers"])
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(setup,))

    def __call__(self, locations: Sequence[Location]) -> list[ReadSample]:
        """The samples at ``locations``, in order. Raises what a reader raised, or WorkerLostError."""
        try:
            return [_received(each) for each in self._pool.submit(_read, locations).result()]
        except BrokenProcessPool as error:
            raise WorkerLostError(
                f"a worker process died while it read samples such as {locations[0]}: out of memory, or a crash in "
                "native code of a reader. Readers must be importable, and the script guarded by "
                'if __name__ == "__main__"'
            ) from error

    def close(self) -> None:
        """End the processes after the chunks that they are reading."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """End this process as soon as its parent process ends, also by SIGKILL: nobody would read its results."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a worker process"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="mmvicreg-end-with-parent", daemon=True).start()


_samples: SampleReader  # of a worker process, set once when it begins


def _begin(setup: WorkerSetup) -> None:
    global _samples
    end_with_parent()
    # Ctrl-C reaches every process of the terminal; the main one ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _samples = setup.samples()


def _read(locations: Sequence[Location]) -> list[tuple[ReadSample, dict[str, object]]]:
    return [_to_send(_samples(location)) for location in locations]


def _to_send(sample: ReadSample) -> tuple[ReadSample, dict[str, object]]:
    items = sample.items
    values = {view: item.value.contiguous().numpy() for view, item in items.items() if item is not None}
    return replace(sample, items=dict.fromkeys(items)), dict(values)


def _received(sent: tuple[ReadSample, dict[str, object]]) -> ReadSample:
    sample, values = sent
    return replace(
        sample,
        items={
            view: Item(torch.from_numpy(values[view])) if view in values else None for view in sample.items
        },
    )
