"""Bytes of a picture to uint8 (H, W, 3), by documented rules.

JPEG is decoded by simplejpeg in its strict mode, which notices damage that Pillow, torchvision and OpenCV
paint over; what it refuses is tried once with Pillow and, where that succeeds, marked as recovered. All
other formats go through Pillow. Rules, each with a test on a real file:

=====================  ===============================================================================
formats                JPEG, PNG, WebP, TIFF, AVIF, GIF, BMP; everything else is rejected
size                   checked in the header, before any pixel is decoded: at most ``max_pixels``, half of it for
                       WebP and AVIF; decoding takes at most 12 bytes of memory for each pixel of that limit
transparency           composited on white (alpha channel, palette or colour-key)
16 bits a channel      the high byte is kept (Pillow's own conversion would saturate to white)
floats, 32 bits        rejected: nothing says which number is white (use RasterModality); integers of 32 bits that fit
                       16 are read as those
colour profiles        not applied, as open_clip and torchvision do not
grey, CMYK, palette    converted to RGB (CMYK by Pillow)
EXIF orientation       applied: the picture stands upright (open_clip ignores the tag); an unreadable EXIF block
                       leaves the picture as it is, recovered
animated, paged        the first frame or page
=====================  ===============================================================================
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mmvicreg.modalities.decoding.formats import MAX_BYTES, PILLOW_FORMATS
from mmvicreg.stream.reader import BadSampleError, decoding

MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112
COPIES = {"WEBP": 2, "AVIF": 2}
"""Formats whose libraries hold several copies of the pixels: the limit of pixels is divided by this number."""
STRIP = 1 << 20
"""Pixels that are converted at a time."""
TILE_SIDES = (322, 323)
"""TIFF tags of the width and height of a tile."""
LARGEST_TILE = 1 << 22
"""Pixels of a TIFF tile that any picture may have."""


@dataclass(frozen=True)
class DecodedImage:
    """uint8 (H, W, 3), and what was wrong with bytes that could still be used (else empty)."""

    array: np.ndarray
    recovered: str = ""


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, reduce_to: int | None = None
) -> DecodedImage:
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
    except Exception as error:  # such as KeyError: a header whose colour space has no number
        return DecodedImage(_by_pillow(data, max_pixels=max_pixels).array, f"damaged JPEG: {error}")
    return DecodedImage(_upright(array, data))


def _check_size(width: int, height: int, max_pixels: int, *, of: str = "") -> None:
    limit = max_pixels // COPIES.get(of, 1)
    if width * height > limit:
        half = f", half of max_pixels for {of}" if of in COPIES else ""
        raise BadSampleError(f"too many pixels: {width} x {height}, the limit is {limit}{half}")
    if width < 1 or height < 1:
        raise BadSampleError(f"no pixels: {width} x {height}")


def _by_pillow(data: bytes, *, max_pixels: int) -> DecodedImage:
    try:
        with decoding("damaged picture"):
            if canvas := webp_canvas(data[:30]):
                _check_size(*canvas, max_pixels, of="WEBP")
            with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
                _check_size(*image.size, max_pixels, of=image.format or "")
                _check_tile(image)
                image.load()
                turn, fault = _orientation(image)
                return DecodedImage(_oriented(rgb_array(image), turn), fault)
    except BadSampleError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise BadSampleError(
                f"not a picture: none of {', '.join(PILLOW_FORMATS)}; it begins {data[:12]!r}"
            ) from None
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise BadSampleError(f"too many pixels: {error.__cause__}") from None
        raise


def webp_canvas(start: bytes) -> tuple[int, int] | None:
    """Width and height that the first 30 bytes of a WebP declare, None for other files.

    libwebp fills a canvas of this size while the file is opened: the check comes before that.
    """
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP" or len(start) < 30:
        return None
    kind, head = start[12:16], start[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width, height


def _check_tile(image: Image.Image) -> None:
    """Refuse a TIFF whose tiles, each decoded whole, are far larger than the picture."""
    if not isinstance(image, TiffImageFile):
        return
    sides: Any = [image.tag_v2.get(tag) for tag in TILE_SIDES]
    if all(isinstance(side, int) for side in sides):
        tile, most = math.prod(sides), max(2 * math.prod(image.size), LARGEST_TILE)
        if tile > most:
            raise BadSampleError(f"too many pixels: a tile of {sides[0]} x {sides[1]}, the limit is {most}")


def from_pillow(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) of an opened picture, by the rules of this module: upright, on white, 8 bits a channel."""
    image.load()
    return _oriented(rgb_array(image), _orientation(image)[0])


def _orientation(image: Image.Image) -> tuple[int, str]:
    """The EXIF orientation, and what is wrong with it: an unreadable tag says nothing about the pixels."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # Pillow's parsers raise anything
        return 1, f"unreadable EXIF: {type(error).__name__}: {str(error)[:200]}"
    return (turn, "") if turn in range(1, 9) else (1, "")


def rgb_array(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) of a picture, converted in strips, which take little memory."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    wide = image.mode.startswith("I")
    extrema: Any = image.getextrema() if wide else None
    if image.mode == "F" or (wide and not 0 <= extrema[0] <= extrema[1] < 1 << 16):
        kind = "floats" if image.mode == "F" else f"integers from {extrema[0]} to {extrema[1]}"
        raise BadSampleError(
            f"unknown range: pixels are {kind}; expected 8 or 16 bits a channel, or a raster"
        )
    low = wide and not image.mode.startswith("I;16") and extrema[1] <= 255
    array = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        if wide:
            numbers = np.asarray(strip)
            numbers = numbers if low else numbers.astype(np.int64) >> 8
            array[top : top + rows] = numbers.clip(0, 255).astype(np.uint8)[..., None]
        else:
            array[top : top + rows] = np.asarray(_on_white(strip))
    return array


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _upright(array: np.ndarray, data: bytes) -> np.ndarray:
    """Apply a JPEG's EXIF orientation. Most have no EXIF, so its marker is looked for before it is parsed."""
    if not _has_exif(data):
        return array
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            turn, _ = _orientation(image)
    except Exception:  # a header that only Pillow refuses; the pixels were decoded strictly
        return array
    return _oriented(array, turn)


def _oriented(array: np.ndarray, turn: int) -> np.ndarray:
    """uint8 (H, W, 3) turned by an EXIF orientation, 1 to 8."""
    if turn == 1:
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
