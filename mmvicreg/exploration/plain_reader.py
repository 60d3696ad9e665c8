"""A reader that only shows: members as they are, for data that no run describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmvicreg.modalities.decoding.records import captions_of
from mmvicreg.stream.reader import Item, Reader, Sample

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PlainReader(Reader):
    """Members with these suffixes, or the captions at ``places``; items have no values that a branch could take."""

    suffixes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.suffixes, *(place.partition(":")[0] for place in self.places))

    @property
    def shape(self) -> tuple[int, ...]:
        return (0,)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.uint8

    def items(self, sample: Sample) -> list[Item]:
        import torch

        empty = torch.zeros(0, dtype=torch.uint8)
        if self.places:
            return [Item(empty, identity=text) for text in captions_of(sample.members, self.places)]
        return [Item(empty)] if set(self.suffixes) & set(sample.members) else []
