"""One sample through every reader: the unit of work of a loader thread or worker process.

Nothing that a user's reader does ends silently: an exception that is not BadSampleError, or a value of another
shape or dtype than the reader declares, becomes a ReaderError naming view, key, shard, found and expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmvicreg.errors import UnknownNameError, UserError
from mmvicreg.randomness import generator
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample


class ReaderError(UserError, RuntimeError):
    """A reader failed in a way that says nothing about the data: the run stops."""


@dataclass(frozen=True)
class Place:
    """Which sample: epoch, shard and row in it."""

    epoch: int
    shard: int
    row: int


@dataclass(frozen=True)
class Note:
    """What was wrong with one view of one row: rejected (and why), or recovered."""

    view: str
    rejected: bool
    reason: str
    key: str
    number: int
    shard: int
    substitute: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a batch: None where the view is absent or was rejected."""

    key: str
    number: int
    items: Mapping[str, Item | None]
    notes: tuple[Note, ...]


class SampleReader:
    """Reads rows for ``readers``.

    A rejected view is masked. With ``substitutes`` > 0 the whole sample is first replaced by the next rows of
    its shard, at most that many tries, until nothing is rejected.
    """

    def __init__(
        self, fetch: Fetcher, readers: Mapping[str, Reader], *, seed: int, substitutes: int = 0
    ) -> None:
        self.fetch, self.readers, self.seed, self.substitutes = fetch, dict(readers), seed, substitutes
        self.members = frozenset(m for reader in readers.values() for m in reader.members)
        self._declared = {view: (tuple(r.shape), r.dtype) for view, r in readers.items()}

    def __call__(self, place: Place) -> Row:
        """The row at ``place``; the same bits in any thread, process or layout."""
        first = row = self._read(place)
        notes = list(first.notes)
        count = self.fetch.index.shards[place.shard].count
        for attempt in range(1, min(self.substitutes, count - 1) + 1):
            if not any(note.rejected for note in row.notes):
                break
            row = self._read(Place(place.epoch, place.shard, (place.row + attempt) % count))
            notes += row.notes
        if row is first:
            return first
        if any(note.rejected for note in row.notes):
            return Row(first.key, first.number, first.items, tuple(notes))
        named = [n if n.key == row.key else Note(**{**vars(n), "substitute": row.key}) for n in notes]
        return Row(row.key, row.number, row.items, tuple(named))

    def _read(self, place: Place) -> Row:
        sample = self.fetch(place.shard, place.row, self.members)
        items: dict[str, Item | None] = {}
        notes = []
        for view, reader in self.readers.items():
            items[view] = None
            try:
                item = reader.read(sample, generator(self.seed, place.epoch, sample.number, view))
            except BadSampleError as error:
                notes.append(Note(view, True, str(error), sample.key, sample.number, place.shard))
                continue
            except Exception as error:
                self.fail(view, sample, place.shard, error)
            if item is not None:
                self.check(view, sample, place.shard, item=item)
                items[view] = item
                if item.recovered:
                    notes.append(Note(view, False, item.recovered, sample.key, sample.number, place.shard))
        return Row(sample.key, sample.number, items, tuple(notes))

    def fail(self, view: str, sample: Sample, shard: int, error: Exception) -> None:
        """Raise ReaderError for an exception that is not about the data."""
        raise ReaderError(
            f"{self._where(view, sample, shard)}: it raised {type(error).__name__}: {error}. "
            'Raise BadSampleError("reason: details") where the data is at fault'
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
        path = self.fetch.index.shards[shard].path
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
