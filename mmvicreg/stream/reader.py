"""Readers: from the bytes of one sample to one array, in a loader thread or a worker process.

A reader holds no weights and no state that changes: threads share it and worker processes get a pickled copy. All its
randomness comes from the generator that it is given, so a sample read twice with the same generator gives the same
bits for any number of processes and threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


MAX_MEMBER = 256 << 20
"""Bytes of the largest member that is read unless a reader says otherwise."""


class BadSampleError(ValueError):
    """The sample's bytes cannot be used: it is rejected, counted and written to the ledger."""


@contextmanager
def decoding(reason: str) -> Iterator[None]:
    """Any exception in the block is about the sample's bytes: raised again as BadSampleError("reason: details").

    Put the calls that parse bytes inside, and nothing else: an exception outside is a bug of the reader and stops the
    run. ``MemoryError`` and ``RecursionError`` count as details of the bytes, too.
    """
    try:
        yield
    except BadSampleError:
        raise
    except Exception as error:
        raise BadSampleError(f"{reason}: {type(error).__name__}: {str(error)[:200]}") from error


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its key, its number in the data set, and the members that were asked for."""

    key: str
    number: int
    members: Mapping[str, bytes]
    """content by suffix: all after the first dot of the member's file name, in lower case"""
    oversized: Mapping[str, int] = field(default_factory=dict)
    """sizes of members that were asked for but are larger than the limit, and were not read"""


@dataclass(frozen=True)
class Item:
    """One input of a branch.

    ``identity``: two items of one modality with the same identity are the same item (a caption of two images); empty
    for an item that no other sample has. ``recovered``: what was wrong with bytes that could still be used, or empty.
    """

    value: torch.Tensor
    identity: str = ""
    recovered: str = ""


@dataclass(frozen=True)
class Recording:
    """Sound as a person hears it."""

    wave: np.ndarray
    """float32 (T,), of -1 to 1"""
    rate: int
    """samples a second"""


class Reader(ABC):
    """Reads one modality. All values have the same shape and dtype, so batches have static shapes."""

    @property
    @abstractmethod
    def members(self) -> tuple[str, ...]:
        """Suffixes that this reader uses; only these are read from the shard."""

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest member that is read; a sample with a larger one is rejected, and no byte of it read."""
        return MAX_MEMBER

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of every value, without the batch dimension."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Dtype of every value."""

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        """One training input drawn with ``generator``; None if the sample lacks this modality.

        The first of :meth:`items`, unless a reader augments or chooses.
        """
        found = self.items(sample)
        return found[0] if found else None

    @abstractmethod
    def items(self, sample: Sample) -> list[Item]:
        """Every evaluation input of the sample, without randomness: one image, all captions, ..."""

    def show(self, sample: Sample, identity: str) -> str | np.ndarray | Recording | None:
        """What a person sees or hears of the item ``identity`` of a sample: a text, an image uint8 (H, W, 3) or a
        recording. Pages and searches call this.

        None, unless a reader says otherwise, shows the sample's image or recording where this reader reads one, and
        else the identity. ``sample`` has the members that this reader reads.
        """
        return None
