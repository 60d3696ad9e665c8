"""Bytes of an image to uint8 pixels of one size, and uint8 pixels to what an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from mmvicreg.modalities import pixels
from mmvicreg.stream.reader import Item, Reader, Sample


class PixelNormalization(nn.Module):
    """uint8 (n, C, H, W) to (value / 255 - mean) / std in the default float dtype, on the device."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        mean_C, std_C = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / (255 * std_C)).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", (mean_C / std_C).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Convolutions are about twice as fast channels last, on CPUs and tensor cores alike.
        return (x.to(self.scale.dtype) * self.scale - self.shift).contiguous(
            memory_format=torch.channels_last
        )


@dataclass(frozen=True)
class ImageReader(Reader):
    """RandomResizedCrop, flip and colour for training; the centre square for evaluation."""

    suffixes: tuple[str, ...]
    size: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jitter_probability: float
    grayscale: float
    max_pixels: int

    @property
    def members(self) -> tuple[str, ...]:
        return self.suffixes

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        picture = self._decode(sample)
        if picture is None:
            return None
        height, width = picture.array.shape[:2]
        box = pixels.random_box(
            generator, width=width, height=height, scale=self.crop_scale, ratio=self.crop_ratio
        )
        value = self._colour(pixels.resize_crop(picture.array, box, size=self.size), generator)
        if generator.random() < self.flip:
            value = value.flip(-1)
        return Item(value, recovered=picture.recovered)

    def items(self, sample: Sample) -> list[Item]:
        picture = self._decode(sample)
        if picture is None:
            return []
        return [Item(pixels.resize_centre(picture.array, self.size), recovered=picture.recovered)]

    def _decode(self, sample: Sample) -> pixels.Picture | None:
        for suffix in self.suffixes:
            if suffix in sample.members:
                return pixels.decode(sample.members[suffix], max_pixels=self.max_pixels)
        return None

    def _colour(self, value: Tensor, generator: np.random.Generator) -> Tensor:
        if any(self.jitter) and generator.random() < self.jitter_probability:
            brightness, contrast, saturation, hue = self.jitter
            low, high = np.maximum(0, 1 - np.array(self.jitter[:3])), 1 + np.array(self.jitter[:3])
            factors = generator.uniform(low, high)
            if brightness:
                value = transforms.adjust_brightness(value, float(factors[0]))
            if contrast:
                value = transforms.adjust_contrast(value, float(factors[1]))
            if saturation:
                value = transforms.adjust_saturation(value, float(factors[2]))
            if hue:
                value = transforms.adjust_hue(value, float(generator.uniform(-hue, hue)))
        if self.grayscale and generator.random() < self.grayscale:
            value = transforms.rgb_to_grayscale(value, num_output_channels=3)
        return value
