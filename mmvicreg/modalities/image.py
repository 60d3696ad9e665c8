"""Images: a reader that crops and augments, and encoders from timm, open_clip or transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmvicreg.modalities.decoding.arrays import first_member
from mmvicreg.modalities.decoding.formats import IMAGES, MAX_BYTES
from mmvicreg.stream.reader import Item, Reader, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmvicreg.branches.model import Branch
    from mmvicreg.modalities.decoding.pixels import DecodedImage
    from mmvicreg.modalities.encoders.preprocessing import Preprocessing


@dataclass(frozen=True)
class ImageModality:
    """A branch for images: what is read, how it is augmented, and which encoder and projector embed it."""

    encoder: str = "timm/resnet50"
    """timm/NAME, open_clip/NAME (its image tower), or transformers/NAME-or-folder"""
    weights: str = ""
    """initial weights: empty for random ones, "hub", an open_clip tag, or a file"""
    frozen: bool = False
    """keep the encoder as it is and train the projector alone"""
    lora: int = 0
    """rank of low-rank adapters in the encoder's linear layers, which are then all of it that is trained (pip install
    "mmvicreg[lora]"); 0 for none"""
    lora_targets: tuple[str, ...] = ()
    """ends of the names of the layers that get an adapter; empty for every linear layer"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""
    size: int = 224
    """side of the square input, in pixels"""
    members: tuple[str, ...] = IMAGES
    """member suffixes that hold the image; the first that a sample has is read"""
    resize: str = ""
    """how evaluation makes a square of an image: shortest (the middle is cut out), squash, or longest (black at the
    edges); empty for that of the weights"""
    interpolation: str = ""
    """of evaluation: bicubic or bilinear; empty for that of the weights"""
    mean: tuple[float, ...] = ()
    """mean of the pixels of each channel, on the scale 0 to 1; empty for that of the weights"""
    std: tuple[float, ...] = ()
    """their standard deviation"""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """least and largest fraction of the area in a training crop (open_clip's default; 0.08 1.0 for image-image
    training)"""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """least and largest aspect ratio (width / height) of a training crop"""
    flip: float = 0.0
    """probability of a horizontal flip (captions may say left and right)"""
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """strength of color jitter: brightness, contrast, saturation, hue"""
    jitter_probability: float = 0.8
    """probability of color jitter, where any strength is above 0"""
    grayscale: float = 0.0
    """probability of conversion to grayscale"""
    max_pixels: int = 100_000_000
    """an image with more pixels is rejected before it is decoded"""
    precomputed_views: int = 0
    """with a frozen encoder: augmented views precomputed per sample, of which training draws one; 0 encodes each
    step anew"""

    def reader(self) -> ImageReader:
        """Bytes to uint8 (3, size, size)."""
        prepared = self.preprocessing()
        return ImageReader(
            suffixes=self.members,
            size=self.size,
            resize=prepared.resize,
            interpolation=prepared.interpolation,
            crop_scale=self.crop_scale,
            crop_ratio=self.crop_ratio,
            flip=self.flip,
            jitter=self.jitter,
            jitter_probability=self.jitter_probability,
            grayscale=self.grayscale,
            max_pixels=self.max_pixels,
        )

    def preprocessing(self) -> Preprocessing:
        """What the weights were trained with, where a field does not say otherwise."""
        from mmvicreg.modalities.encoders.preprocessing import preprocessing_of

        return preprocessing_of(self.encoder, self.weights).with_settings(
            resize=self.resize, interpolation=self.interpolation, mean=self.mean, std=self.std
        )

    def branch(self) -> Branch:
        """uint8 (n, 3, size, size) to h (n, E) and z (n, D)."""
        from torch import channels_last, nn

        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders import hugging_face, pretrained
        from mmvicreg.modalities.encoders.lora import add_adapters
        from mmvicreg.modalities.encoders.pixel_normalization import PixelNormalization

        library, _ = pretrained.split(self.encoder)
        if library == "timm":
            tower = pretrained.timm_image(self.encoder, weights=self.weights, size=self.size)
        elif library == "open_clip":
            tower = pretrained.open_clip_image(self.encoder, weights=self.weights, size=self.size)
        else:
            tower = hugging_face.transformers_tower(
                self.encoder, weights=self.weights, pool="mean", takes="image"
            )
        if self.lora:
            add_adapters(tower.module, rank=self.lora, targets=self.lora_targets, frozen=self.frozen)
        prepared = self.preprocessing()
        pixels = PixelNormalization(prepared.mean or tower.mean, prepared.std or tower.std)
        return Branch(
            nn.Sequential(pixels, tower.module).to(memory_format=channels_last),
            projector(tower.width, self.projector, dropout=self.dropout),
            frozen=self.frozen,
            learning_rate=self.learning_rate,
        )


@dataclass(frozen=True)
class ImageReader(Reader):
    """RandomResizedCrop, flip and color jitter for training; the square of the weights for evaluation."""

    suffixes: tuple[str, ...]
    size: int
    resize: str
    interpolation: str
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
    def max_bytes(self) -> int:
        return MAX_BYTES

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.uint8

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        from mmvicreg.modalities.decoding import crops

        image = self._decode(sample)
        if image is None:
            return None
        height, width = image.array.shape[:2]
        box = crops.random_box(
            generator, width=width, height=height, scale=self.crop_scale, ratio=self.crop_ratio
        )
        value = self._jitter(crops.resize_crop(image.array, box, size=self.size), generator)
        if generator.random() < self.flip:
            value = value.flip(-1)
        return Item(value, recovered=image.recovered)

    def items(self, sample: Sample) -> list[Item]:
        image = self._decode(sample)
        if image is None:
            return []
        return [Item(self.prepare(image.array), recovered=image.recovered)]

    def prepare(self, array: np.ndarray) -> Tensor:
        """The evaluation input, uint8 (3, size, size), of a decoded image, uint8 (H, W, 3)."""
        from mmvicreg.modalities.decoding import crops

        if (self.resize, self.interpolation) == ("shortest", "bicubic"):
            return crops.resize_centre(array, self.size)
        return crops.resize_whole(array, self.size, resize=self.resize, interpolation=self.interpolation)

    def _decode(self, sample: Sample) -> DecodedImage | None:
        from mmvicreg.modalities.decoding import pixels

        found = first_member(sample.members, self.suffixes)
        return None if found is None else pixels.decode(found[1], max_pixels=self.max_pixels)

    def _jitter(self, value: Tensor, generator: np.random.Generator) -> Tensor:
        from torchvision.transforms.v2 import functional as transforms

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
