"""Shards of real photographs for the tests: crops of two that scikit-learn ships, written by webdataset."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image

from mmvicreg import BadSampleError, Item, Reader, Sample
from mmvicreg.modalities.decoding.crops import random_box, resize_crop
from mmvicreg.modalities.decoding.pixels import decode


@cache
def photographs() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_images  # here: worker processes import this file for its readers

    return tuple(Image.fromarray(a) for a in load_sample_images().images)


def crop(number: int, *, width: int = 60, height: int = 48) -> Image.Image:
    """A crop that differs for every number."""
    photo = photographs()[number % 2]
    left, top = 7 * number % (photo.width - width), 11 * number % (photo.height - height)
    return photo.crop((left, top, left + width, top + height))


def encoded(number: int, *, format: str = "JPEG", width: int = 60, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    crop(number, width=width, height=height).save(buffer, format, quality=90)
    return buffer.getvalue()


def write_shards(folder: str | os.PathLike[str], counts: list[int], *, prefix: str = "train") -> list[str]:
    """Shards of ``counts`` samples with members jpg and txt; keys count up over the shards."""
    from webdataset import TarWriter

    paths, number = [], 0
    for shard, count in enumerate(counts):
        paths.append(os.path.join(folder, f"{prefix}-{shard:06d}.tar"))
        with TarWriter(paths[-1]) as writer:
            for _ in range(count):
                writer.write(
                    {
                        "__key__": f"{number:06d}",
                        "jpg": encoded(number),
                        "txt": f"photograph {number}".encode(),
                    }
                )
                number += 1
    return paths


@dataclass(frozen=True)
class Photo(Reader):
    """A random crop as uint8 (3, side, side)."""

    side: int = 16

    @property
    def members(self) -> tuple[str, ...]:
        return ("jpg", "png", "webp")

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.side, self.side)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        for member in self.members:
            if member in sample.members:
                picture = decode(sample.members[member])
                height, width, _ = picture.array.shape
                box = random_box(generator, width, height)
                return Item(resize_crop(picture.array, box, self.side), recovered=picture.recovered)
        return None

    def items(self, sample: Sample) -> list[Item]:
        item = self.read(sample, np.random.default_rng(0))
        return [] if item is None else [item]


@dataclass(frozen=True)
class Words(Reader):
    """Bytes of the caption, int64 (24,), zero padded; two items a sample: the caption and its last word."""

    @property
    def members(self) -> tuple[str, ...]:
        return ("txt",)

    @property
    def shape(self) -> tuple[int, ...]:
        return (24,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        return self._item(sample.members["txt"]) if "txt" in sample.members else None

    def items(self, sample: Sample) -> list[Item]:
        text = sample.members.get("txt", b"")
        return [self._item(text), self._item(text.split()[-1])] if text else []

    def _item(self, text: bytes) -> Item:
        if not text.strip():
            raise BadSampleError("empty: a caption without words")
        value = torch.zeros(24, dtype=torch.int64)
        value[: len(text[:24])] = torch.tensor(list(text[:24]))
        return Item(value, identity=text.decode())
