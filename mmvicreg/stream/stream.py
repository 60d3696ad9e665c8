"""plan + readers + rank -> batches, in order, from any step on, with whatever ranks and threads there are.

The order is the plan's, the randomness is keyed by (seed, epoch, sample, view), and a bad sample is masked or
substituted by a fixed rule: so a batch depends on (index, plan, readers, step) and on nothing else. Decoders
and resizers release the GIL, so a pool of threads per rank does the work; batches ahead are prefetched and
handed over in step order. Do not give this loader to ``accelerator.prepare``: it is sharded already.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.plan.plan import Locations, Plan
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.stream.buffers import Buffers, Sender
from mmvicreg.stream.ledger import Finding, Ledger
from mmvicreg.stream.shard_prefetch import ShardPrefetcher
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.sample_reader import Note, Place, Row, check_members
from mmvicreg.stream.sample_counts import Budget, SampleCounts
from mmvicreg.stream.workers import Workers, WorkerSetup

LOOK_EVERY, LOOK_STEPS = 16, 256
"""Remote shards are asked for this many steps ahead, looked up every so many steps."""

log = logging.getLogger("mmvicreg.stream.stream")


@dataclass(frozen=True)
class Batch:
    """This rank's rows of global batch ``step``. ``epoch`` is that of the global batch's first sample.

    ``inputs[view]`` is (B, *shape), rows that are not ``present[view]`` (bool (B,)) are zero; ``keys`` and
    ``numbers`` (int64 (B,)) name the samples.
    """

    step: int
    epoch: int
    keys: tuple[str, ...]
    numbers: torch.Tensor
    inputs: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]


class _Pending:
    """A batch being filled: its buffers and the tasks that fill them."""

    def __init__(self, step: int, places: Locations, buffers: dict[str, torch.Tensor]) -> None:
        rows = len(places.row)
        self.step, self.places, self.buffers = step, places, buffers
        self.present = {view: np.zeros(rows, bool) for view in buffers}
        self.keys = [""] * rows
        self.numbers = np.zeros(rows, np.int64)
        self.notes: list[tuple[Note, ...]] = [()] * rows
        self.tasks: list[Future[None]] = []
        self.sent = False

    def send(self, sender: Sender) -> None:
        """Begin to copy the inputs, which are whole, to the device."""
        self.buffers, self.sent = sender.send(self.buffers), True

    def put(self, i: int, row: Row) -> None:
        self.keys[i], self.numbers[i], self.notes[i] = row.key, row.number, row.notes
        for view, item in row.items.items():
            if item is None:
                self.buffers[view][i].zero_()
            else:
                self.buffers[view][i].copy_(item.value)
                self.present[view][i] = True


class Stream(Iterator[Batch]):
    """Batches of steps ``start`` to ``stop`` (for ever where None) for one rank; ``counts``: what it handed over.

    ``substitutes``: how many following rows may stand in for a sample with a rejected view (0: the view is
    masked). ``ledger``: folder for the ledger. ``budget`` holds for this rank's samples; None where the caller
    checks all ranks' (see tally.py). ``patience``: seconds after which a wait is explained in the log.
    ``device``: where inputs are put; a GPU gets them from page-locked memory while it computes with the batch
    before. ``workers``: processes that read the rows instead of threads, for readers that hold the GIL.
    ``shard_cache``: where remote shards are downloaded to.

    Raises ValueError (plan of another index, global batch not divisible by ``world``), KeyError (no member
    that a view reads); from iteration ReaderError, BadShardError, TooManyRejectedError and OSError.
    """

    def __init__(
        self,
        index: ShardIndex,
        plan: Plan,
        *,
        readers: Mapping[str, Reader],
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int | None = None,
        prefetch: int = 2,
        substitutes: int = 0,
        ledger: str | None = None,
        budget: Budget | None = Budget(),  # noqa: B008  frozen
        patience: float = 60.0,
        device: torch.device | None = None,
        workers: int = 0,
        shard_cache: ShardCache = ShardCache(),  # noqa: B008  frozen
    ) -> None:
        _check(index, plan, rank=rank, world=world)
        check_members(readers, index.suffixes)
        self.index, self.plan, self.patience, self._budget = index, plan, patience, budget
        setup = WorkerSetup(index, dict(readers), plan.seed, substitutes, shard_cache)
        self._rows = setup.rows()
        self._workers = Workers(setup, workers) if workers else None
        self._lookahead = ShardPrefetcher(index, shard_cache)
        share = plan.global_batch // world
        self._slots = np.arange(rank * share, (rank + 1) * share)
        self._next, self._stop, self._prefetch = start, stop, prefetch
        self._sender = Sender(device) if device is not None and device.type == "cuda" else None
        self._buffers = Buffers(readers, share, keep=prefetch + 2, pin=self._sender is not None)
        self._ahead: deque[_Pending] = deque()
        self._busy: dict[str, tuple[Place, float]] = {}
        self._ledger = Ledger(ledger, rank=rank)
        self._pool = start_threads(threads or workers or default_threads(), "mmvicreg-stream")
        self._chunk = max(1, min(16, share // (2 * self._pool._max_workers) or 1))

    @property
    def counts(self) -> SampleCounts:
        """Samples handed over by this rank, and what was recovered, rejected and missing among them."""
        return self._ledger.counts

    def __next__(self) -> Batch:
        while len(self._ahead) <= self._prefetch and (self._stop is None or self._next < self._stop):
            self._submit(self._next)
            self._next += 1
        if not self._ahead:
            self.close()
            raise StopIteration
        pending = self._ahead.popleft()
        try:
            self._wait(pending)
            self._put_on_device(pending)
            return self._hand_over(pending)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading ahead; the loader cannot be used afterwards."""
        self._stop = self._next
        self._ahead.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._ledger.close()
        self._rows.fetch.close()
        self._lookahead.close()
        if self._workers is not None:
            self._workers.close()

    def _submit(self, step: int) -> None:
        if self._lookahead.wanted and step % LOOK_EVERY == 0:
            last = step + LOOK_STEPS if self._stop is None else min(self._stop, step + LOOK_STEPS)
            for ahead in range(step, last, LOOK_EVERY):
                self._lookahead.want(np.unique(self.plan.locate(ahead, self._slots).shard).tolist())
        places = self.plan.locate(step, self._slots)
        rows = len(places.row)
        pending = _Pending(step, places, self._buffers.take())
        for begin in range(0, rows, self._chunk):
            pending.tasks.append(
                self._pool.submit(self._fill, pending, range(begin, min(rows, begin + self._chunk)))
            )
        self._ahead.append(pending)

    def _fill(self, pending: _Pending, rows: Sequence[int]) -> None:
        me, at = threading.current_thread().name, pending.places
        places = [Place(int(at.epoch[i]), int(at.shard[i]), int(at.row[i])) for i in rows]
        if self._workers is not None:
            self._busy[me] = places[0], time.monotonic()
            for i, row in zip(rows, self._workers(places), strict=True):
                pending.put(i, row)
        else:
            for i, place in zip(rows, places, strict=True):
                self._busy[me] = place, time.monotonic()
                pending.put(i, self._rows(place))
        self._busy.pop(me, None)

    def _wait(self, pending: _Pending) -> None:
        left, begun = set(pending.tasks), time.monotonic()
        while left:
            done, left = wait(left, timeout=self.patience, return_when="FIRST_EXCEPTION")
            for task in done:
                task.result()
            if left:
                log.warning(
                    "step %d: waiting for %.0f s: %s", pending.step, time.monotonic() - begun, self._doing()
                )

    def _doing(self) -> str:
        now = time.monotonic()
        lines = []
        for thread, (place, since) in list(self._busy.items()):
            shard = self.index.shards[place.shard]
            lines.append(f"{thread} reads {shard.path} row {place.row} for {now - since:.0f} s")
        return "; ".join(lines) or "no thread is reading"

    def _put_on_device(self, pending: _Pending) -> None:
        """The inputs of ``pending``, and, where it has been read, begin with those of the batch after it."""
        if self._sender is None:
            return
        if not pending.sent:
            pending.send(self._sender)
        self._sender.receive(pending.buffers)
        if self._ahead and all(task.done() and task.exception() is None for task in self._ahead[0].tasks):
            self._ahead[0].send(self._sender)

    def _hand_over(self, pending: _Pending) -> Batch:
        places = pending.places
        findings = [
            Finding(
                pending.step,
                int(epoch),
                note.view,
                self.index.shards[note.shard].name,
                note.key,
                note.number,
                "rejected" if note.rejected else "recovered",
                note.reason,
                note.substitute,
            )
            for epoch, notes in zip(places.epoch, pending.notes, strict=True)
            for note in notes
        ]
        self._ledger.write(findings)
        self._count(pending)
        return Batch(
            pending.step,
            self.plan.epoch(pending.step),
            tuple(pending.keys),
            torch.from_numpy(pending.numbers),
            pending.buffers,
            {view: torch.from_numpy(mask) for view, mask in pending.present.items()},
        )

    def _count(self, pending: _Pending) -> None:
        counts = self.counts
        counts.seen += len(pending.keys)
        for view, mask in pending.present.items():
            absent = len(mask) - int(mask.sum())
            counts.missing[view] = counts.missing.get(view, 0) + absent
        if self._budget is not None:
            self._budget.check(counts)


def _check(index: ShardIndex, plan: Plan, *, rank: int, world: int) -> None:
    if not np.array_equal(plan.counts, index.counts):
        raise InvalidValueError(
            f"the plan is for {plan.samples} samples in {len(plan.counts)} shards, the index {len(index)} "
            f"in {len(index.shards)}: make it with Plan(index.counts, ...)"
        )
    if not 0 <= rank < world or plan.global_batch % world:
        raise InvalidValueError(
            f"rank {rank} of {world} with a global batch of {plan.global_batch}: the rank must be below the "
            "number of ranks, and the global batch a multiple of it"
        )


def default_threads() -> int:
    """Threads a rank: its share of the cores among LOCAL_WORLD_SIZE ranks, at least 1, at most 32."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(32, len(os.sched_getaffinity(0)) // ranks))


def start_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads run torch operators on one core each.

    ``torch.set_num_threads`` sets the calling thread and the default of threads to come; the default is put
    back, so that only the pool's threads are narrow.
    """
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def narrow() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=narrow)
    for _ in range(count):
        pool.submit(time.sleep, 0)
    ready.wait()
    torch.set_num_threads(before)
    return pool
