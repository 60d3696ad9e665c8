"""One sample through every reader: the unit of work of a loader thread or worker process.

An exception of a reader is about the data only if it is BadSampleError, which :func:`mmvicreg.stream.reader.decoding`
makes of whatever is raised while bytes are parsed. Any other exception, and a value of another shape or dtype than the
reader declares, becomes a ReaderError that names view, key, shard, found and expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from mmvicreg.errors import UnknownNameError, UserError
from mmvicreg.randomness import generator
from mmvicreg.shards.locations import redact
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

Value = TypeVar("Value")


class ReaderError(UserError, RuntimeError):
    """A reader failed in a way that says nothing about the data: the run stops."""


@dataclass(frozen=True)
class Location:
    """Which sample to read: epoch, shard, and place in the shard."""

    epoch: int
    shard: int
    place: int


@dataclass(frozen=True)
class Remark:
    """What was wrong with one view of a sample: rejected, or recovered, and why."""

    view: str
    rejected: bool
    reason: str
    key: str
    number: int
    shard: int
    substitute: str = ""
    """key of the sample that was used instead"""


@dataclass(frozen=True)
class ReadSample:
    """One sample of a batch; an item is None if its view is absent or was rejected."""

    key: str
    number: int
    items: Mapping[str, Item | None]
    remarks: tuple[Remark, ...]

    @property
    def rejected(self) -> bool:
        """Whether any view was rejected."""
        return any(remark.rejected for remark in self.remarks)


class SampleReader:
    """Reads samples with ``readers``.

    A rejected view is absent. With ``substitutes`` > 0 the whole sample is first replaced by one of that many samples
    that follow in its shard, of which nothing is rejected.
    """

    def __init__(
        self, fetch: Fetcher, readers: Mapping[str, Reader], *, seed: int, substitutes: int = 0
    ) -> None:
        self.fetch, self.readers, self.seed, self.substitutes = fetch, dict(readers), seed, substitutes
        self.members = frozenset(m for reader in readers.values() for m in reader.members)
        self._limits = {
            member: max(r.max_bytes for r in readers.values() if member in r.members)
            for member in self.members
        }
        self._declared = {view: (tuple(r.shape), r.dtype) for view, r in readers.items()}

    def __call__(self, location: Location) -> ReadSample:
        """The sample at ``location``; the same bits in any thread, process or layout."""
        first = sample = self._read(location)
        remarks = list(first.remarks)
        count = self.fetch.index.shards[location.shard].count
        for attempt in range(1, min(self.substitutes, count - 1) + 1):
            if not sample.rejected:
                break
            sample = self._read(replace(location, place=(location.place + attempt) % count))
            remarks += sample.remarks
        if sample is first:
            return first
        if sample.rejected:
            return replace(first, remarks=tuple(remarks))
        named = [each if each.key == sample.key else replace(each, substitute=sample.key) for each in remarks]
        return replace(sample, remarks=tuple(named))

    def sample(self, shard: int, place: int) -> Sample:
        """The members of a sample that any reader uses."""
        return self.fetch(shard, place, self.members, self._limits)

    def _read(self, location: Location) -> ReadSample:
        sample = self.sample(location.shard, location.place)
        items: dict[str, Item | None] = {}
        remarks = []

        def remark(view: str, reason: str, *, rejected: bool) -> None:
            remarks.append(Remark(view, rejected, reason, sample.key, sample.number, location.shard))

        for view, reader in self.readers.items():
            items[view] = None
            random = generator(self.seed, location.epoch, sample.number, view)
            try:
                item = self.use(view, sample, location.shard, read=partial(reader.read, sample, random))
            except BadSampleError as error:
                remark(view, str(error), rejected=True)
                continue
            if item is not None:
                self.check(view, sample, location.shard, item=item)
                items[view] = item
                if item.recovered:
                    remark(view, item.recovered, rejected=False)
        return ReadSample(sample.key, sample.number, items, tuple(remarks))

    def use(self, view: str, sample: Sample, shard: int, *, read: Callable[[], Value]) -> Value:
        """The result of ``read``, which calls the reader of ``view``.

        Raises BadSampleError for unusable or oversized bytes, ReaderError for every other exception of the reader.
        """
        reader = self.readers[view]
        for member, size in sample.oversized.items():
            if member in reader.members and size > reader.max_bytes:
                raise BadSampleError(
                    f"member too large: {member} has {size:,} bytes, {type(reader).__name__} reads at most "
                    f"{reader.max_bytes:,}"
                )
        try:
            return read()
        except BadSampleError:
            raise
        except Exception as error:
            raise ReaderError(
                f"{self._where(view, sample, shard)}: it raised {type(error).__name__}: {error}. If the data is at "
                'fault, raise BadSampleError("reason: details") or parse the bytes inside decoding("reason")'
            ) from error

    def check(self, view: str, sample: Sample, shard: int, *, item: Item) -> None:
        """Raise ReaderError unless ``item`` is what the reader of ``view`` declares."""
        shape, dtype = self._declared[view]
        if not isinstance(item, Item) or not isinstance(item.value, torch.Tensor):
            found = type(item.value if isinstance(item, Item) else item).__name__
            raise ReaderError(
                f"{self._where(view, sample, shard)}: found {found}, expected an Item with a tensor"
            )
        if tuple(item.value.shape) != shape or item.value.dtype != dtype:
            found = f"{tuple(item.value.shape)} {item.value.dtype}"
            raise ReaderError(f"{self._where(view, sample, shard)}: found {found}, expected {shape} {dtype}")

    def _where(self, view: str, sample: Sample, shard: int) -> str:
        path = redact(self.fetch.index.shards[shard].path)
        name = type(self.readers[view]).__name__
        return f"view {view!r}, reader {name}, sample {sample.key!r} (number {sample.number}) of {path}"


def check_members(readers: Mapping[str, Reader], suffixes: Mapping[str, int]) -> None:
    """Raise KeyError for a view none of whose members is anywhere in the shards."""
    for view, reader in readers.items():
        if reader.members and not any(member in suffixes for member in reader.members):
            raise UnknownNameError(
                f"view {view!r} reads {', '.join(reader.members)}; the shards have only "
                f"{', '.join(suffixes) or 'no members'}: change the reader's members, or the shards"
            )
