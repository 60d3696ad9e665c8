"""Pictures for the claims on image-only training, and the random views that are made of them.

Every machine has scikit-learn's 1,797 handwritten digits of 8x8 pixels. In gray, random features already reach 93%, so
each digit is drawn once in a random light colour on a random dark ground, with noise: random features then reach 73%
(55% with a tenth of the labels), a supervised network 93%, and there is room between for objectives to differ.

B pictures of a batch, C channels, S pixels of a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from mmvicreg.randomness import generator

CLASSES = 10
SIDE = 8
TRAIN, VALIDATION = 1000, 297
"""pictures; the other 500 are test pictures"""


@dataclass(frozen=True)
class Pictures:
    """``pixels`` float32 (N, 3, 8, 8), about zero mean and unit variance; ``labels`` int64 (N,)."""

    pixels: Tensor
    labels: np.ndarray

    def first(self, count: int) -> Pictures:
        """The first ``count`` pictures."""
        return Pictures(self.pixels[:count], self.labels[:count])

    def rows_of_each_class(self, count: int) -> np.ndarray:
        """Numbers of the first ``count`` pictures of each class, or of as many as there are."""
        return np.concatenate([np.flatnonzero(self.labels == label)[:count] for label in range(CLASSES)])

    def of_each_class(self, count: int) -> Pictures:
        """The first ``count`` pictures of each class."""
        rows = self.rows_of_each_class(count)
        return Pictures(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True)
class Division:
    """Training, validation and test pictures; the same division for every run."""

    train: Pictures
    validation: Pictures
    test: Pictures


@lru_cache(maxsize=1)
def divide() -> Division:
    """Colours and division are functions of the seed 0: every machine has the same pictures."""
    digits, random = load_digits(), generator("coloured digits", 0)
    count = len(digits.target)
    ink = digits.images[:, None] / 16
    light = random.uniform(0.5, 1.0, (count, 3, 1, 1))
    dark = random.uniform(0.0, 0.3, (count, 3, 1, 1))
    values = dark + (light - dark) * ink + random.normal(0, 0.05, (count, 3, SIDE, SIDE))
    order = random.permutation(count)
    pixels = torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)[order]
    labels = digits.target[order].astype(np.int64)
    edges = [0, TRAIN, TRAIN + VALIDATION, count]
    parts = [Pictures(pixels[a:b], labels[a:b]) for a, b in pairwise(edges)]
    return Division(*parts)


@dataclass(frozen=True)
class Augmentation:
    """How far the random views of a picture may differ from it. Draws come from torch's global generator."""

    shift: float = 1.5
    """largest shift, pixels"""
    scale: float = 0.15
    """largest change of the size, as a fraction"""
    rotation: float = 10.0
    """largest rotation, degrees"""
    colour: float = 0.3
    """standard deviation of the change of each channel's offset and of the logarithm of its gain"""
    gray: float = 0.1
    """probability of the mean channel in place of the colours"""
    noise: float = 0.05
    """standard deviation of the noise of a pixel"""
    blur: float = 0.1
    """probability of a 3x3 blur"""
    mask: int = 0
    """side of a square that is hidden, pixels"""

    def __call__(self, x_BCSS: Tensor) -> Tensor:
        """A new view of each picture."""
        x = self._colours(self._move(x_BCSS))
        if self.blur:
            chosen = torch.rand(len(x), 1, 1, 1) < self.blur
            x = torch.where(chosen, F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False), x)
        if self.mask:
            x = self._hide(x)
        return x + self.noise * torch.randn_like(x)

    def _move(self, x: Tensor) -> Tensor:
        count = len(x)
        angle = torch.deg2rad((2 * torch.rand(count) - 1) * self.rotation)
        size = 1 + (2 * torch.rand(count) - 1) * self.scale
        shift = (2 * torch.rand(count, 2) - 1) * self.shift * 2 / SIDE
        cos, sin = angle.cos() * size, angle.sin() * size
        theta = torch.stack(
            [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def _colours(self, x: Tensor) -> Tensor:
        offset, gain = torch.randn(2, len(x), x.shape[1], 1, 1) * self.colour
        x = x * gain.exp() + offset
        if self.gray:
            chosen = torch.rand(len(x), 1, 1, 1) < self.gray
            x = torch.where(chosen, x.mean(1, keepdim=True), x)
        return x

    def _hide(self, x: Tensor) -> Tensor:
        at = torch.arange(SIDE)
        corner = torch.randint(SIDE - self.mask + 1, (2, len(x), 1))
        inside = (at >= corner) & (at < corner + self.mask)
        hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return torch.where(hidden, x.mean((2, 3), keepdim=True), x)


WEAK = Augmentation(shift=1.0, scale=0.1, rotation=5.0, colour=0.15, noise=0.05)
"""MoCo v1: crops and mild colours, no blur"""
STANDARD = Augmentation()
"""SimCLR and its followers: stronger colours, gray, blur"""
STRONG = Augmentation(shift=2.0, scale=0.2, rotation=15.0, colour=0.5, gray=0.2, noise=0.1, blur=0.2, mask=3)
"""InfoMin: what SimCLR changes, more of it, and a hidden part"""
