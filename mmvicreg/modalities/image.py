"""Images: any encoder of timm, open_clip or transformers over uint8 pixels normalised on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmvicreg.branches.model import Branch
    from mmvicreg.modalities.image_reader import ImageReader


@dataclass(frozen=True)
class ImageModality:
    """An image branch; see the fields for what can be chosen."""

    encoder: str = "timm/resnet50"
    """timm/NAME, open_clip/NAME (its visual tower), or transformers/NAME-or-folder"""
    weights: str = ""
    """initial weights: empty for random, "hub", an open_clip tag, or a file"""
    frozen: bool = False
    """keep the encoder as it is and train the projector only"""
    learning_rate: float | None = None
    """learning rate of this branch; None for the run's"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector; empty for none"""
    dropout: float = 0.0
    """dropout inside the projector"""
    size: int = 224
    """side of the square image in pixels"""
    members: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """member suffixes that hold the image; the first one a sample has is read"""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """share of the area a training crop covers (open_clip's default; 0.08 1.0 for image-image training)"""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """width to height of a training crop"""
    flip: float = 0.0
    """probability of a horizontal flip (captions may say left and right)"""
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """strength of brightness, contrast, saturation and hue changes"""
    jitter_probability: float = 0.8
    """probability of the colour changes, where any is above 0"""
    grayscale: float = 0.0
    """probability of a grey image"""
    max_pixels: int = 100_000_000
    """larger images are rejected before they are decoded"""
    cache: int = 0
    """with a frozen encoder: encode this many training readings of each sample once, and draw from them"""

    def reader(self) -> ImageReader:
        """Bytes to uint8 (3, size, size)."""
        from mmvicreg.modalities.image_reader import ImageReader

        return ImageReader(
            suffixes=self.members,
            size=self.size,
            crop_scale=self.crop_scale,
            crop_ratio=self.crop_ratio,
            flip=self.flip,
            jitter=self.jitter,
            jitter_probability=self.jitter_probability,
            grayscale=self.grayscale,
            max_pixels=self.max_pixels,
        )

    def branch(self) -> Branch:
        """uint8 (n, 3, size, size) to h (n, E) and z (n, D)."""
        from torch import channels_last, nn

        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders import pretrained as towers
        from mmvicreg.modalities.image_reader import PixelNormalization

        library, _ = towers.split(self.encoder)
        if library == "timm":
            tower = towers.timm_image(self.encoder, weights=self.weights, size=self.size)
        elif library == "open_clip":
            tower = towers.open_clip_image(self.encoder, weights=self.weights, size=self.size)
        else:
            tower = towers.transformers_tower(self.encoder, weights=self.weights, pool="mean", takes="image")
        return Branch(
            nn.Sequential(PixelNormalization(tower.mean, tower.std), tower.module).to(
                memory_format=channels_last
            ),
            projector(tower.width, self.projector, dropout=self.dropout),
            frozen=self.frozen,
            learning_rate=self.learning_rate,
        )
