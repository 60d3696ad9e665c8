"""Tables: numeric and categorical columns of one record, from a JSON or CSV member."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

if TYPE_CHECKING:
    import torch

    from mmvicreg.branches.model import Branch

MAX_BYTES = 1_000_000
"""A larger record is rejected before it is parsed (chosen)."""


@dataclass(frozen=True)
class TableModality:
    """A branch for records; see the fields for what can be chosen."""

    numbers: tuple[str, ...] = ()
    """columns that hold numbers; a value that is missing or no number counts as missing"""
    categories: tuple[str, ...] = ()
    """columns that hold words"""
    record: str = "json"
    """json, json:FIELD where the record is inside a field, or csv (a header line and one line)"""
    buckets: int = 1024
    """categories are hashed to this many embeddings of their column: no vocabulary is needed"""
    width: int = 256
    """width of the representation"""
    learning_rate: float | None = None
    """learning rate of this branch; None for the run's"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector; empty for none"""
    dropout: float = 0.0
    """dropout inside the projector"""

    def reader(self) -> TableReader:
        """Bytes to float32 (numbers + categories,)."""
        self._check()
        return TableReader(
            numbers=self.numbers, categories=self.categories, record=self.record, buckets=self.buckets
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
        if self.record.partition(":")[0] not in ("json", "csv"):
            raise InvalidValueError(f"record {self.record!r}: expected json, json:FIELD or csv")


@dataclass(frozen=True)
class TableReader(Reader):
    """Numbers as they are (NaN where missing), then categories as buckets (-1 where missing)."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    record: str
    buckets: int

    @property
    def members(self) -> tuple[str, ...]:
        return (self.record.partition(":")[0],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers) + len(self.categories),)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        import torch

        record = self._record(sample)
        if record is None:
            return None
        numbers = [_number(record.get(name)) for name in self.numbers]
        buckets = [float(_bucket(record.get(name), self.buckets)) for name in self.categories]
        if all(math.isnan(value) for value in numbers) and all(value < 0 for value in buckets):
            return None
        return Item(torch.tensor(numbers + buckets, dtype=torch.float32))

    def items(self, sample: Sample) -> list[Item]:
        item = self.read(sample, np.random.default_rng(0))
        return [] if item is None else [item]

    def _record(self, sample: Sample) -> dict[str, Any] | None:
        kind, _, field = self.record.partition(":")
        data = sample.members.get(kind)
        if data is None:
            return None
        if len(data) > MAX_BYTES:
            raise BadSampleError(f"a record of {len(data)} bytes; at most {MAX_BYTES} are read")
        try:
            text = data.decode("utf-8-sig")
            found = next(csv.DictReader(text.splitlines()), None) if kind == "csv" else json.loads(text)
        except (UnicodeDecodeError, csv.Error, ValueError, RecursionError) as error:
            raise BadSampleError(f"not a {kind} record: {error}") from None
        if field and isinstance(found, dict):
            found = found.get(field)
            if found is None:
                return None
        if not isinstance(found, dict):
            raise BadSampleError(f"the {kind} member holds {type(found).__name__}, expected one record")
        return found


def _number(value: Any) -> float:
    """A finite number within fp32, or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) < 1e30 else math.nan


def _bucket(value: Any, buckets: int) -> int:
    """The same bucket for the same word on any machine; -1 for None and empty."""
    if value is None or value == "":
        return -1
    digest = hashlib.blake2b(str(value).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets
