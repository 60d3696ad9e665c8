"""Time series: channels of numbers over time, from an npy member; convolutions over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmvicreg.modalities.decoding.arrays import first_member, read_array
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

if TYPE_CHECKING:
    import torch

    from mmvicreg.branches.model import Branch

MAX_ELEMENTS = 64_000_000


@dataclass(frozen=True)
class SeriesModality:
    """A branch for time series; see the fields for what can be chosen."""

    channels: int = 1
    """numbers at each time"""
    length: int = 512
    """times of every input: longer series are cut, shorter ones end in zeros"""
    members: tuple[str, ...] = ("npy",)
    """member suffixes that hold (times, channels), or (times,) for one channel"""
    standardize: bool = True
    """bring each channel of a series to mean 0 and deviation 1 over its times"""
    width: int = 64
    """channels of the first convolution; the representation is 8 times as wide"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""

    def reader(self) -> SeriesReader:
        """Bytes to float32 (channels, length)."""
        return SeriesReader(
            suffixes=self.members, channels=self.channels, length=self.length, standardize=self.standardize
        )

    def branch(self) -> Branch:
        """float32 (n, channels, length) to h (n, 8 * width) and z (n, D)."""
        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders.convolutions import convolutions_1d

        encoder = convolutions_1d(self.channels, width=self.width, length=self.length)
        made = projector(encoder.width, self.projector, dropout=self.dropout)
        return Branch(encoder, made, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class SeriesReader(Reader):
    """A stretch of the series: anywhere for training, its middle for evaluation."""

    suffixes: tuple[str, ...]
    channels: int
    length: int
    standardize: bool

    @property
    def members(self) -> tuple[str, ...]:
        return self.suffixes

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.length)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        return self._item(sample, generator.random())

    def items(self, sample: Sample) -> list[Item]:
        item = self._item(sample, 0.5)
        return [] if item is None else [item]

    def _item(self, sample: Sample, place: float) -> Item | None:
        import torch

        found = first_member(sample.members, self.suffixes)
        if found is None:
            return None
        array = read_array(found[1], found[0], max_elements=MAX_ELEMENTS)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != self.channels or not len(array):
            raise BadSampleError(f"wrong shape: a series of {array.shape}; expected (times, {self.channels})")
        if self.standardize:
            wide = array.astype(np.float64)  # squares of the largest float32 numbers overflow
            array = ((wide - wide.mean(0)) / (wide.std(0) + 1e-6)).astype(np.float32)
        start = round(max(0, len(array) - self.length) * place)
        stretch = array[start : start + self.length].T
        value = np.zeros(self.shape, np.float32)
        value[:, : stretch.shape[1]] = stretch
        return Item(torch.from_numpy(value))
