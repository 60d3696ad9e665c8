"""Precomputed features: vectors that another program wrote, as npy or safetensors members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmvicreg.modalities.decoding.arrays import first_member, read_array
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

if TYPE_CHECKING:
    import torch

    from mmvicreg.branches.model import Branch

MAX_ELEMENTS = 16_000_000


@dataclass(frozen=True)
class VectorModality:
    """A branch that is a projector alone: what is in the shards is its representation."""

    width: int = 768
    """length of every vector"""
    members: tuple[str, ...] = ("npy", "safetensors")
    """member suffixes that hold (width,), or (views, width): several augmented views, of which training
    draws one"""
    tensor: str = ""
    """of a safetensors member: which tensor; empty for its only one"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""

    def reader(self) -> VectorReader:
        """Bytes to float32 (width,)."""
        return VectorReader(suffixes=self.members, tensor=self.tensor, width=self.width)

    def branch(self) -> Branch:
        """float32 (n, width) to h, the same, and z (n, D)."""
        from torch import nn

        from mmvicreg.branches.model import Branch, projector

        made = projector(self.width, self.projector, dropout=self.dropout)
        return Branch(nn.Identity(), made, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class VectorReader(Reader):
    """One augmented view drawn for training; all of them for evaluation."""

    suffixes: tuple[str, ...]
    tensor: str
    width: int

    @property
    def members(self) -> tuple[str, ...]:
        return self.suffixes

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        found = self._views(sample)
        return None if found is None or not len(found) else self._item(found[generator.integers(len(found))])

    def items(self, sample: Sample) -> list[Item]:
        found = self._views(sample)
        return [] if found is None else [self._item(row) for row in found]

    def _item(self, row: np.ndarray) -> Item:
        import torch

        return Item(torch.from_numpy(row.copy()))

    def _views(self, sample: Sample) -> np.ndarray | None:
        """(views, width)."""
        found = first_member(sample.members, self.suffixes)
        if found is None:
            return None
        array = read_array(found[1], found[0], name=self.tensor, max_elements=MAX_ELEMENTS)
        if array.ndim not in (1, 2) or array.shape[-1] != self.width:
            raise BadSampleError(
                f"wrong shape: features of {array.shape}; expected ({self.width},) or (.., {self.width})"
            )
        return array.reshape(-1, self.width)
