"""Tables: numeric and categorical columns of one record, from a JSON or CSV member."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.formats import TABLES
from mmvicreg.modalities.decoding.records import MAX_BYTES, read_csv_record, read_record
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

if TYPE_CHECKING:
    import torch

    from mmvicreg.branches.model import Branch


@dataclass(frozen=True)
class TableModality:
    """A branch for records: which columns are read, and the projector behind their encoder."""

    numbers: tuple[str, ...] = ()
    """columns that hold numbers; a value that is not a finite number counts as missing"""
    categories: tuple[str, ...] = ()
    """columns that hold words or numbers that stand for classes"""
    members: tuple[str, ...] = ("json",)
    """where the record is: json, json:FIELD (an object inside a field), or csv (a header line and one line); the first
    place where a sample has one is read"""
    buckets: int = 1024
    """embeddings of each categorical column; categories are hashed to them, so no vocabulary is needed"""
    width: int = 256
    """width of the representation"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""

    def reader(self) -> TableReader:
        """Bytes to float32 (numbers + categories,). Raises ValueError without columns or for another kind of member."""
        self._check()
        return TableReader(
            numbers=self.numbers, categories=self.categories, places=self.members, buckets=self.buckets
        )

    def branch(self) -> Branch:
        """float32 (n, numbers + categories) to h (n, width) and z (n, D)."""
        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders.convolutions import Columns

        self._check()
        encoder = Columns(len(self.numbers), len(self.categories), buckets=self.buckets, width=self.width)
        made = projector(encoder.width, self.projector, dropout=self.dropout)
        return Branch(encoder, made, learning_rate=self.learning_rate)

    def _check(self) -> None:
        if not self.numbers and not self.categories:
            raise InvalidValueError("a table needs columns: name them in numbers or categories")
        for place in self.members:
            kind, _, field = place.partition(":")
            if kind.rpartition(".")[2] not in TABLES or (field and kind.endswith("csv")):
                raise InvalidValueError(f"members {place!r}: expected json, json:FIELD or csv")


@dataclass(frozen=True)
class TableReader(Reader):
    """Numbers as they are (NaN where missing), then categories as buckets (-1 where missing)."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    places: tuple[str, ...]
    buckets: int

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.partition(":")[0] for place in self.places))

    @property
    def max_bytes(self) -> int:
        return MAX_BYTES

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers) + len(self.categories),)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def items(self, sample: Sample) -> list[Item]:
        import torch

        record = self._record(sample)
        if record is None:
            return []
        numbers = [_number(record.get(name)) for name in self.numbers]
        buckets = [float(_bucket(record.get(name), self.buckets)) for name in self.categories]
        if all(math.isnan(value) for value in numbers) and all(value < 0 for value in buckets):
            return []
        return [Item(torch.tensor(numbers + buckets, dtype=torch.float32))]

    def _record(self, sample: Sample) -> dict[str, Any] | None:
        for place in self.places:
            suffix, _, field = place.partition(":")
            data = sample.members.get(suffix)
            if data is None:
                continue
            if suffix.endswith("csv"):
                found: Any = read_csv_record(data, suffix)
            else:
                found = read_record(data, suffix)
                found = found.get(field) if field else found
            if found is not None:
                if not isinstance(found, dict):
                    raise BadSampleError(f"not a record: {place} holds {type(found).__name__}")
                return found
        return None


def _number(value: Any) -> float:
    """A finite number within float32, or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) < 1e30 else math.nan


def _bucket(value: Any, buckets: int) -> int:
    """The bucket of a word, the same on any machine; -1 where there is no single value."""
    if value is None or value == "" or isinstance(value, dict | list):
        return -1
    digest = hashlib.blake2b(str(value).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets
