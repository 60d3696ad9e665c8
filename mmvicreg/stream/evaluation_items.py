"""Every item of every sample of a range, in index order: what embedding and evaluation read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from unicodedata import normalize

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Reader
from mmvicreg.stream.sample_reader import SampleReader, check_members
from mmvicreg.stream.threads import default_threads, start_threads


@dataclass(frozen=True)
class EvaluationItem:
    """One input: number and key of its sample, its view, its place among the sample's items of that view."""

    number: int
    key: str
    view: str
    place: int
    value: torch.Tensor
    identity: str
    recovered: str


@dataclass(frozen=True)
class RejectedItem:
    """A sample whose ``view`` cannot be used, and why."""

    number: int
    key: str
    view: str
    reason: str


def evaluation_items(
    index: ShardIndex,
    readers: Mapping[str, Reader],
    *,
    start: int = 0,
    stop: int | None = None,
    threads: int | None = None,
) -> Iterator[EvaluationItem | RejectedItem]:
    """Items of samples ``start`` to ``stop`` (to the last if None), ordered by number, view and place.

    Rank r of R takes ``len(index) * r // R`` to ``len(index) * (r + 1) // R``: no padding, nothing twice.
    Raises ReaderError for a reader that fails or returns another shape or dtype than it declares.
    """
    last = len(index) if stop is None else stop
    if not 0 <= start <= last <= len(index):
        raise InvalidValueError(f"samples {start} to {last}; the index has 0 to {len(index)}")
    check_members(readers, index.suffixes)
    samples = SampleReader(Fetcher(index), readers, seed=0)
    pool = start_threads(threads or default_threads(), "mmvicreg-items")
    ahead: deque[Future[list[EvaluationItem | RejectedItem]]] = deque()
    number = start
    try:
        while ahead or number < last:
            while number < last and len(ahead) < 32:
                ahead.append(pool.submit(_read, samples, range(number, min(last, number + 8))))
                number += 8
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(samples: SampleReader, numbers: range) -> list[EvaluationItem | RejectedItem]:
    found: list[EvaluationItem | RejectedItem] = []
    for number in numbers:
        shard, place = samples.fetch.index.place(number)
        sample = samples.sample(shard, place)
        for view, reader in samples.readers.items():
            try:
                items = samples.use(view, sample, shard, read=partial(reader.items, sample))
            except BadSampleError as error:
                found.append(RejectedItem(number, sample.key, view, str(error)))
                continue
            for order, item in enumerate(items):
                samples.check(view, sample, shard, item=item)
                identity = normalize("NFC", item.identity)
                found.append(
                    EvaluationItem(number, sample.key, view, order, item.value, identity, item.recovered)
                )
    return found
