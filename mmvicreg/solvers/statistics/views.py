"""Augmented views for moments: random crops or captions of every sample beside its evaluation items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmvicreg.randomness import generator
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample


@dataclass(frozen=True)
class AugmentedReader(Reader):
    """Every evaluation item of a sample, and ``draws`` augmented views of it (crops, captions), the same ones on any
    number of processes and at every start."""

    inner: Reader
    draws: int
    seed: int

    @property
    def members(self) -> tuple[str, ...]:
        return self.inner.members

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        return self.inner.read(sample, generator)

    def items(self, sample: Sample) -> list[Item]:
        found = self.inner.items(sample)
        for draw in range(self.draws):
            try:
                item = self.inner.read(sample, generator(self.seed, draw, sample.number, "augmented view"))
            except BadSampleError:
                break  # its evaluation item was rejected as well, and is in the ledger
            if item is not None:
                found.append(item)
        return found
