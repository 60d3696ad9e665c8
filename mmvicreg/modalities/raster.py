"""Depth maps and images of any number of channels: npy arrays and 16-bit grey PNG, as float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.arrays import first_member, read_array
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

if TYPE_CHECKING:
    import torch

    from mmvicreg.branches.model import Branch
    from mmvicreg.modalities.decoding.crops import Box


@dataclass(frozen=True)
class RasterModality:
    """A branch for rasters; see the fields for what can be chosen."""

    encoder: str = "conv"
    """conv (five convolutions trained from nothing), or timm/NAME with that many input channels"""
    weights: str = ""
    """initial weights of timm: empty for random, "hub", or a file"""
    frozen: bool = False
    """keep the encoder as it is and train the projector only"""
    channels: int = 1
    """values of each pixel"""
    size: int = 128
    """side of the square input in pixels"""
    members: tuple[str, ...] = ("depth.png", "depth.npy", "npy", "png")
    """member suffixes that hold (rows, columns) or (rows, columns, channels); the first one found is read"""
    scale: float = 1.0
    """what values are multiplied by, such as 0.001 for millimetres in a PNG"""
    clip: tuple[float, float] = (0.0, 10.0)
    """least and largest value after scaling; they become 0 and 1"""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """fraction of the area a training crop covers"""
    flip: float = 0.0
    """probability of a horizontal flip"""
    width: int = 32
    """of conv: channels of the first convolution; the representation is 16 times as wide"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""
    max_pixels: int = 100_000_000
    """larger rasters are rejected before they are decoded"""
    precomputed_views: int = 0
    """with a frozen encoder: augmented views precomputed per sample, of which training draws one; 0 encodes each
    step anew"""

    def reader(self) -> RasterReader:
        """Bytes to float32 (channels, size, size) in 0 to 1."""
        return RasterReader(
            suffixes=self.members,
            channels=self.channels,
            size=self.size,
            scale=self.scale,
            clip=self.clip,
            crop_scale=self.crop_scale,
            flip=self.flip,
            max_pixels=self.max_pixels,
        )

    def branch(self) -> Branch:
        """float32 (n, channels, size, size) to h (n, E) and z (n, D)."""
        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders import convolutions as networks
        from mmvicreg.modalities.encoders import pretrained as towers

        if self.encoder == "conv":
            extent = (self.size, self.size)
            net = networks.convolutions_2d(self.channels, width=self.width, extent=extent, keep_rows=False)
            tower = towers.Tower(net, net.width)
        elif self.encoder.startswith("timm/"):
            tower = towers.timm_image(
                self.encoder, weights=self.weights, size=self.size, channels=self.channels
            )
        else:
            raise InvalidValueError(f"raster encoder {self.encoder!r}: expected conv or timm/NAME")
        made = projector(tower.width, self.projector, dropout=self.dropout)
        return Branch(tower.module, made, frozen=self.frozen, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class RasterReader(Reader):
    """A crop and flip for training, the centre square for evaluation; bilinear, antialiased."""

    suffixes: tuple[str, ...]
    channels: int
    size: int
    scale: float
    clip: tuple[float, float]
    crop_scale: tuple[float, float]
    flip: float
    max_pixels: int

    @property
    def members(self) -> tuple[str, ...]:
        return self.suffixes

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        from mmvicreg.modalities.decoding import crops

        array = self._decode(sample)
        if array is None:
            return None
        height, width = array.shape[:2]
        ratio = (3 / 4, 4 / 3)
        box = crops.random_box(generator, width=width, height=height, scale=self.crop_scale, ratio=ratio)
        item = self._cut(array, box)
        return Item(item.value.flip(-1)) if generator.random() < self.flip else item

    def items(self, sample: Sample) -> list[Item]:
        from mmvicreg.modalities.decoding import crops

        array = self._decode(sample)
        if array is None:
            return []
        return [self._cut(array, crops.centre_box(array.shape[1], array.shape[0]))]

    def _decode(self, sample: Sample) -> np.ndarray | None:
        """float32 (rows, columns, channels) in 0 to 1."""
        found = first_member(sample.members, self.suffixes)
        if found is None:
            return None
        array = read_array(found[1], found[0], max_elements=self.max_pixels * self.channels)
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3 or array.shape[2] != self.channels or 0 in array.shape:
            raise BadSampleError(
                f"wrong shape: a raster of {array.shape}; expected (rows, columns) or (rows, columns, {self.channels})"
            )
        low, high = self.clip
        with np.errstate(over="ignore"):  # what overflows is clipped
            return ((array * np.float32(self.scale)).clip(low, high) - low) / (high - low)

    def _cut(self, array: np.ndarray, box: Box) -> Item:
        import torch

        left, top, width, height = box
        crop = torch.from_numpy(array[top : top + height, left : left + width]).permute(2, 0, 1)[None]
        side = (self.size, self.size)
        value = torch.nn.functional.interpolate(
            crop, side, mode="bilinear", antialias=True, align_corners=False
        )
        return Item(value[0].contiguous())
