"""Every item of every sample of a number range, in index order: what embedding and evaluation read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from unicodedata import normalize

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Reader
from mmvicreg.stream.sample_reader import SampleReader, check_members
from mmvicreg.stream.stream import default_threads, start_threads


@dataclass(frozen=True)
class EvaluationItem:
    """One input: its sample's number and key, its view, its place among the sample's items of that view."""

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
    """Items of samples ``start`` to ``stop`` (to the last where None), by number, then view, then place.

    Rank r of R takes ``len(index) * r // R`` to ``len(index) * (r + 1) // R``: no padding, nothing twice.
    Raises ReaderError for a reader that fails or returns another shape or dtype than it declares.
    """
    last = len(index) if stop is None else stop
    if not 0 <= start <= last <= len(index):
        raise InvalidValueError(f"samples {start} to {last}; the index has 0 to {len(index)}")
    check_members(readers, index.suffixes)
    rows = SampleReader(Fetcher(index), readers, seed=0)
    pool = start_threads(threads or default_threads(), "mmvicreg-items")
    ahead: deque[Future[list[EvaluationItem | RejectedItem]]] = deque()
    number = start
    try:
        while ahead or number < last:
            while number < last and len(ahead) < 32:
                ahead.append(pool.submit(_read, rows, range(number, min(last, number + 8))))
                number += 8
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(rows: SampleReader, numbers: range) -> list[EvaluationItem | RejectedItem]:
    found: list[EvaluationItem | RejectedItem] = []
    for number in numbers:
        shard, row = rows.fetch.index.place(number)
        sample = rows.fetch(shard, row, rows.members)
        for view, reader in rows.readers.items():
            try:
                items = reader.items(sample)
            except BadSampleError as error:
                found.append(RejectedItem(number, sample.key, view, str(error)))
                continue
            except Exception as error:
                rows.fail(view, sample, shard, error)
            for place, item in enumerate(items):
                rows.check(view, sample, shard, item=item)
                found.append(
                    EvaluationItem(
                        number,
                        sample.key,
                        view,
                        place,
                        item.value,
                        normalize("NFC", item.identity),
                        item.recovered,
                    )
                )
    return found
