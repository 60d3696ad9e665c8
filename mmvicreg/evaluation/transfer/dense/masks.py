"""Images with masks: how they are read, and which masks can be scored. S is the side of an image and its mask."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding import crops, pixels
from mmvicreg.modalities.image import ImageReader
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

IGNORED = 255
"""Value of a pixel that no score counts."""


@dataclass(frozen=True)
class MaskedReader(Reader):
    """An image and its mask, cut alike: uint8 (4, S, S), the last channel the class of each pixel.

    Masks are PNG files with class numbers as grey values or palette entries (PASCAL VOC's), read as they are.
    """

    image: ImageReader
    mask: str = "mask.png"

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.image.members, self.mask)

    @property
    def shape(self) -> tuple[int, ...]:
        return (4, self.image.size, self.image.size)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def items(self, sample: Sample) -> list[Item]:
        suffix = next((name for name in self.image.suffixes if name in sample.members), "")
        if not suffix or self.mask not in sample.members:
            return []
        image = pixels.decode(sample.members[suffix], max_pixels=self.image.max_pixels)
        mask = decode_mask(sample.members[self.mask], max_pixels=self.image.max_pixels)
        height, width = image.array.shape[:2]
        if mask.shape != (height, width):
            raise BadSampleError(
                f"mask: {mask.shape[1]} x {mask.shape[0]} pixels, its image has {width} x {height}"
            )
        box, size = crops.centre_box(width, height), self.image.size
        nearest = ((np.arange(size) + 0.5) * box.width / size).astype(np.int64)
        cut = torch.from_numpy(mask[np.ix_(box.top + nearest, box.left + nearest)].copy())
        return [
            Item(
                torch.cat([crops.resize_crop(image.array, box, size), cut[None]]),
                recovered=image.recovered,
            )
        ]


def decode_mask(data: bytes, *, max_pixels: int) -> np.ndarray:
    """Class numbers uint8 (H, W) of a grey-level or palette PNG. Raises BadSampleError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            if image.mode not in ("L", "P", "1"):
                raise BadSampleError(f"mask: mode {image.mode}; expected 8-bit grey values or a palette")
            if image.width * image.height > max_pixels:
                raise BadSampleError(f"mask: {image.width} x {image.height} pixels, at most {max_pixels}")
            return np.array(image).astype(np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadSampleError(f"mask: no PNG that can be read ({error})") from None


def check_classes(masks: np.ndarray) -> None:
    """Raise ValueError for masks (n, S, S) of which one class or none is left once 255 is ignored."""
    found = np.unique(masks)
    if found.tolist() in ([0, IGNORED], [1, IGNORED]):
        raise InvalidValueError(
            f"the {len(masks)} masks hold only {found[0]} and {IGNORED}, and {IGNORED} is ignored: one class is left, "
            "and calling every pixel that would score 1. Is 255 the foreground? Write class numbers then, 0 and 1"
        )
    if not (found != IGNORED).any():
        raise InvalidValueError(f"every pixel of the {len(masks)} masks is {IGNORED}, which is ignored")
