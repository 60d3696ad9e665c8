"""Batches in the plan's order, from any step on, for any number of processes and threads.

The order is the plan's, randomness is keyed by (seed, epoch, sample, view), and a rejected sample is marked absent or
replaced by a fixed rule: so a batch depends on (index, plan, readers, step) and on nothing else. Decoders and resizers
release the interpreter's lock, so a pool of threads per process does the work; batches are read ahead and handed over
in step order. Do not give this loader to ``accelerator.prepare``: it is divided over processes already.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np
import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.plan.plan import Locations, Plan
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.locations import redact
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.stream.buffers import Buffers, Sender
from mmvicreg.stream.ledger import Finding, Ledger
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.sample_counts import Budget, SampleCounts
from mmvicreg.stream.sample_reader import Location, ReadSample, Remark, check_members
from mmvicreg.stream.shard_prefetch import ShardPrefetcher
from mmvicreg.stream.threads import default_threads, start_threads
from mmvicreg.stream.workers import Workers, WorkerSetup

REQUEST_EVERY, REQUEST_AHEAD = 16, 256
"""Every REQUEST_EVERY steps, copies are requested of the shards that the next REQUEST_AHEAD steps read."""

log = logging.getLogger("mmvicreg.stream.stream")


@dataclass(frozen=True)
class Batch:
    """This process's samples of global batch ``step``. ``epoch`` is that of the global batch's first sample.

    ``inputs[view]`` is (B, *shape), zero in rows that are not ``present[view]`` (bool (B,)); ``keys`` and ``numbers``
    (int64 (B,)) identify the samples.
    """

    step: int
    epoch: int
    keys: tuple[str, ...]
    numbers: torch.Tensor
    inputs: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]


class _Pending:
    """A batch that is being read: its buffers and the tasks that fill them."""

    def __init__(self, step: int, locations: Locations, buffers: dict[str, torch.Tensor]) -> None:
        rows = len(locations.place)
        self.step, self.locations, self.buffers = step, locations, buffers
        self.present = {view: np.zeros(rows, bool) for view in buffers}
        self.keys = [""] * rows
        self.numbers = np.zeros(rows, np.int64)
        self.remarks: list[tuple[Remark, ...]] = [()] * rows
        self.tasks: list[Future[None]] = []
        self.sent = False

    def send(self, sender: Sender) -> None:
        """Begin to copy the inputs, which are complete, to the device."""
        self.buffers, self.sent = sender.send(self.buffers), True

    def put(self, i: int, sample: ReadSample) -> None:
        """Copy a sample into row ``i``."""
        self.keys[i], self.numbers[i], self.remarks[i] = sample.key, sample.number, sample.remarks
        for view, item in sample.items.items():
            if item is None:
                self.buffers[view][i].zero_()
            else:
                self.buffers[view][i].copy_(item.value)
                self.present[view][i] = True


class Stream(Iterator[Batch]):
    """Batches of steps ``start`` to ``stop`` (without end if None) for process ``rank`` of ``world``.

    ``counts``: what has been handed over. ``substitutes``: how many of the following samples may replace one with a
    rejected view (0: the view is absent). ``ledger``: folder of the ledger. ``budget`` limits this process's rejected
    samples; None if the caller checks the sum over processes (sample_counts.py). ``patience``: seconds after which a
    wait is explained in the log. ``device``: where inputs are put; a GPU gets them from page-locked memory while it
    computes with the batch before. ``workers``: processes that read instead of threads, for readers that hold the
    interpreter's lock. ``shard_cache``: where copies of shards are kept.

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
        self._samples = setup.samples()
        self._workers = Workers(setup, workers) if workers else None
        self._prefetcher = ShardPrefetcher(index, shard_cache)
        batch = plan.global_batch // world
        self._slots = np.arange(rank * batch, (rank + 1) * batch)
        self._next, self._stop, self._prefetch = start, stop, prefetch
        self._sender = Sender(device) if device is not None and device.type == "cuda" else None
        self._buffers = Buffers(readers, batch, keep=prefetch + 2, pin=self._sender is not None)
        self._ahead: deque[_Pending] = deque()
        self._busy: dict[str, tuple[Location, float]] = {}
        self._ledger = Ledger(ledger, rank=rank)
        threads = threads or workers or default_threads()
        self._pool = start_threads(threads, "mmvicreg-stream")
        self._chunk = max(1, min(16, batch // (2 * threads) or 1))

    @property
    def counts(self) -> SampleCounts:
        """Samples that this process has handed over, and what was recovered, rejected and absent among them."""
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
        self._samples.fetch.close()
        self._prefetcher.close()
        if self._workers is not None:
            self._workers.close()

    def _submit(self, step: int) -> None:
        if self._prefetcher.needed and step % REQUEST_EVERY == 0:
            last = step + REQUEST_AHEAD if self._stop is None else min(self._stop, step + REQUEST_AHEAD)
            for ahead in range(step, last, REQUEST_EVERY):
                self._prefetcher.request(np.unique(self.plan.locate(ahead, self._slots).shard).tolist())
        locations = self.plan.locate(step, self._slots)
        rows = len(locations.place)
        pending = _Pending(step, locations, self._buffers.take())
        for begin in range(0, rows, self._chunk):
            pending.tasks.append(
                self._pool.submit(self._fill, pending, range(begin, min(rows, begin + self._chunk)))
            )
        self._ahead.append(pending)

    def _fill(self, pending: _Pending, rows: Sequence[int]) -> None:
        me, at = threading.current_thread().name, pending.locations
        locations = [Location(int(at.epoch[i]), int(at.shard[i]), int(at.place[i])) for i in rows]
        if self._workers is not None:
            self._busy[me] = locations[0], time.monotonic()
            for i, sample in zip(rows, self._workers(locations), strict=True):
                pending.put(i, sample)
        else:
            for i, location in zip(rows, locations, strict=True):
                self._busy[me] = location, time.monotonic()
                pending.put(i, self._samples(location))
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
        for thread, (location, since) in list(self._busy.items()):
            path = redact(self.index.shards[location.shard].path)
            lines.append(f"{thread} reads sample {location.place} of {path} for {now - since:.0f} s")
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
        findings = [
            Finding(
                pending.step,
                int(epoch),
                remark.view,
                self.index.shards[remark.shard].name,
                remark.key,
                remark.number,
                "rejected" if remark.rejected else "recovered",
                remark.reason,
                remark.substitute,
            )
            for epoch, remarks in zip(pending.locations.epoch, pending.remarks, strict=True)
            for remark in remarks
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
