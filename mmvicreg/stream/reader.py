"""What turns the bytes of one sample into one array, in a loader thread or worker.

A reader holds no weights and no state that changes: it is shared by threads and may be pickled into
worker processes. All randomness comes from the generator it is given, so a sample read twice with the
same generator gives the same bits on any machine layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


class BadSampleError(ValueError):
    """The sample's bytes cannot be used: it is rejected, counted and written to the ledger."""


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its key, its number in the data set, and the members that were asked for."""

    key: str
    number: int
    members: Mapping[str, bytes]
    """Suffix (all after the first dot of the member's file name, lower case) to content."""


@dataclass(frozen=True)
class Item:
    """One input of a branch.

    ``identity`` says what it is when it is searched for: two items of one modality with the same identity
    are the same item (a caption shared by two images). Empty means "this sample's, and no other's".
    ``recovered`` is empty, or says what was wrong with bytes that could still be used.
    """

    value: torch.Tensor
    identity: str = ""
    recovered: str = ""


class Reader(ABC):
    """Reads one modality. Every value has the same shape and dtype, so batches have static shapes."""

    @property
    @abstractmethod
    def members(self) -> tuple[str, ...]:
        """Suffixes this reader can use; only these are fetched from the shard."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of every value, without the batch dimension."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Dtype of every value."""

    @abstractmethod
    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        """One training input drawn with ``generator``; None where the sample lacks this modality."""

    @abstractmethod
    def items(self, sample: Sample) -> list[Item]:
        """Every evaluation input of the sample, without randomness: one image, all captions, ..."""
