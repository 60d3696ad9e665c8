"""Crops and sizes of a decoded image, uint8 (H, W, 3): what a training step and an evaluation take of it.

Pixels agree with open_clip's, in training and evaluation, within 1 of 255 wherever a crop shrinks: full decode,
then antialiased bicubic on uint8. Where it grows, about one value in a thousand differs by up to 5 (Pillow
rounds between passes).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

LONGEST = 16
"""Sides of an image differ by at most this factor when it is resized whole."""


class Box(NamedTuple):
    """A crop in pixels."""

    left: int
    top: int
    width: int
    height: int


def random_box(
    generator: np.random.Generator,
    width: int,
    height: int,
    *,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """The crop of torchvision's RandomResizedCrop: uniform area and log aspect, ten tries, else centre."""
    area, log_ratio = width * height, (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        u = generator.random(4).tolist()
        target = area * (scale[0] + (scale[1] - scale[0]) * u[0])
        aspect = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * u[1])
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(u[2] * (width - w + 1)), int(u[3] * (height - h + 1)), w, h)
    w = min(width, round(height * ratio[1])) if width / height > ratio[1] else width
    h = min(height, round(width / ratio[0])) if width / height < ratio[0] else height
    return Box((width - w) // 2, (height - h) // 2, w, h)


def centre_box(width: int, height: int) -> Box:
    """The largest square in the middle."""
    side = min(width, height)
    return Box((width - side) // 2, (height - side) // 2, side, side)


def resize_crop(array: np.ndarray, box: Box, size: int) -> torch.Tensor:
    """Crop ``box`` of uint8 (H, W, 3) and resize to uint8 (3, size, size), bicubic with antialiasing.

    Same pixels as torchvision's ``v2`` resize on uint8.
    """
    left, top, width, height = box
    crop = array[top : top + height, left : left + width]
    if (width, height) == (size, size):
        return torch.tensor(crop).permute(2, 0, 1)
    return _resize(crop, (size, size))


def resize_centre(array: np.ndarray, size: int) -> torch.Tensor:
    """Resize uint8 (H, W, 3) so that its shorter side is ``size``, then cut the middle: uint8 (3, size, size).

    What open_clip evaluates on, with its rounding: pixels at the cut see what lies beyond it. Of a strip longer than
    16 times its width only the middle is resized.
    """
    height, width = array.shape[:2]
    longest = LONGEST * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    array = array[top : top + longest, left : left + longest]
    height, width = array.shape[:2]
    if height < width:
        height, width = size, int(size * width / height)
    else:
        height, width = int(size * height / width), size
    if (height, width) == array.shape[:2]:
        whole = torch.tensor(array).permute(2, 0, 1)
    else:
        whole = _resize(array, (height, width))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return whole[:, top : top + size, left : left + size]


def resize_whole(array: np.ndarray, size: int, *, resize: str, interpolation: str) -> torch.Tensor:
    """uint8 (H, W, 3) to uint8 (3, size, size) by open_clip's own evaluation transform.

    ``resize`` is shortest, squash or longest, ``interpolation`` bicubic or bilinear.
    """
    from PIL import Image

    # ToTensor divides bytes by 255: multiplied back they are the same bytes.
    found = _transform(size, resize, interpolation)(Image.fromarray(array))
    return found.mul(255).round().to(torch.uint8)


@cache
def _transform(size: int, resize: str, interpolation: str) -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(
        size=size, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=resize, interpolation=interpolation
    )
    return image_transform_v2(config, is_train=False)


def _resize(crop: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    if not crop.flags.writeable:  # Pillow lends its buffer read-only, torch only takes what it may write
        crop = crop.copy()
    # [None] first: then torch sees channels-last strides and takes its interleaved path, 1.6 times faster
    pixels = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)[
        0
    ]
