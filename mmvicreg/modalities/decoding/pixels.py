"""Bytes of a picture -> uint8 (H, W, 3) by documented rules, and the crop that a training step takes of it.

JPEG is decoded by simplejpeg in its strict mode, which notices damage that Pillow, torchvision and OpenCV
paint over; what it refuses is tried once with Pillow and, where that succeeds, marked as recovered. All
other formats go through Pillow. Rules, each with a test on a real file:

=====================  ===============================================================================
formats                JPEG, PNG, WebP, TIFF, AVIF, GIF, BMP; everything else is rejected
size                   checked in the header, before any pixel is decoded: at most ``max_pixels``
transparency           composited on white (alpha channel, palette or colour-key)
16 bits a channel      the high byte is kept (Pillow's own conversion would saturate to white)
grey, CMYK, palette    converted to RGB (CMYK by Pillow)
EXIF orientation       applied: the picture stands upright (open_clip ignores the tag)
animated, paged        the first frame or page
=====================  ===============================================================================

Pixels agree with open_clip's, in training and evaluation, within 1 of 255 wherever a crop shrinks: full decode,
then antialiased bicubic on uint8. Where it grows, about one value in a thousand differs by up to 5 (Pillow
rounds between passes).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from mmvicreg.modalities.decoding.formats import PILLOW_FORMATS
from mmvicreg.stream.reader import BadSampleError

MAX_PIXELS = 64_000_000
MAX_BYTES = 64_000_000
ORIENTATION = 0x0112
LONGEST = 16
"""Sides of a picture differ by at most this factor when it is resized whole."""


@dataclass(frozen=True)
class Picture:
    """uint8 (H, W, 3), and what was wrong with bytes that could still be used (else empty)."""

    array: np.ndarray
    recovered: str = ""


class Box(NamedTuple):
    """A crop in pixels."""

    left: int
    top: int
    width: int
    height: int


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, reduce_to: int | None = None
) -> Picture:
    """Decode one picture by the rules of this module; raises BadSampleError with the reason.

    ``reduce_to`` lets a large JPEG be decoded at 1/2, 1/4 or 1/8 by its DCT, never below that shorter side:
    1.1 to 1.4 times faster on large pictures, 36 to 50 dB from the full decode.
    """
    if not data:
        raise BadSampleError("empty: a picture of 0 bytes")
    if len(data) > max_bytes:
        raise BadSampleError(f"too many bytes: {len(data)}, the limit is {max_bytes}")
    if not data.startswith(b"\xff\xd8"):
        return _by_pillow(data, max_pixels=max_pixels)
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        if space in ("CMYK", "YCCK"):
            return _by_pillow(data, max_pixels=max_pixels)
        if reduce_to is None:
            array = simplejpeg.decode_jpeg(data, "RGB")
        else:
            array = simplejpeg.decode_jpeg(
                data, "RGB", min_height=reduce_to, min_width=reduce_to, min_factor=1
            )
    except BadSampleError:
        raise
    except (ValueError, KeyError) as error:  # KeyError: a header whose colour space has no number
        return Picture(_by_pillow(data, max_pixels=max_pixels).array, f"damaged JPEG: {error}")
    return Picture(_upright(array, data))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadSampleError(f"too many pixels: {width} x {height}, the limit is {max_pixels}")
    if width < 1 or height < 1:
        raise BadSampleError(f"no pixels: {width} x {height}")


def _by_pillow(data: bytes, *, max_pixels: int) -> Picture:
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            _check_size(*image.size, max_pixels)
            image.load()
            return Picture(np.asarray(_rgb(ImageOps.exif_transpose(image))))
    except UnidentifiedImageError:
        raise BadSampleError(
            f"not a picture: none of {', '.join(PILLOW_FORMATS)}; it begins {data[:12]!r}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError(f"too many pixels: {error}") from None
    except BadSampleError:
        raise
    except (
        Exception
    ) as error:  # Pillow's plugins raise anything on damaged bytes: OSError, SyntaxError, struct...
        raise BadSampleError(f"damaged picture: {type(error).__name__}: {error}") from None


def from_pillow(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) of an opened picture, by the rules of this module: upright, on white, 8 bits a channel."""
    return np.asarray(_rgb(ImageOps.exif_transpose(image)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        wide = np.asarray(image)
        low = wide.max(initial=0) <= 255 and not image.mode.startswith("I;16")
        return Image.fromarray(
            (wide if low else wide.astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(array: np.ndarray, data: bytes) -> np.ndarray:
    """Apply a JPEG's EXIF orientation. Most have no EXIF, so its marker is looked for before it is parsed."""
    if not _has_exif(data):
        return array
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # an unreadable tag says nothing about the pixels, which were decoded strictly
        return array
    if turn in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):  # after the transposition above, 8 and 7 also turn the rows round
        array = array[::-1]
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _has_exif(data: bytes) -> bool:
    """Walk the application segments at the head of a JPEG."""
    at = 2
    while at + 10 < len(data) and data[at] == 0xFF and (0xE0 <= data[at + 1] <= 0xEF or data[at + 1] == 0xFE):
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


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
    whole = torch.tensor(array).permute(2, 0, 1)
    if (height, width) != array.shape[:2]:
        whole = _resize(array, (height, width))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return whole[:, top : top + size, left : left + size]


def _resize(crop: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    if not crop.flags.writeable:  # Pillow lends its buffer read-only, torch only takes what it may write
        crop = crop.copy()
    # [None] first: then torch sees channels-last strides and takes its interleaved path, 1.6 times faster
    pixels = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)[
        0
    ]
