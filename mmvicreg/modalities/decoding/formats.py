"""The file formats that readers decode: the one list that packing, checking, reading, image folders and search use.

Each tuple holds suffixes in lower case without a leading dot, in the order in which a reader tries them.
"""

from __future__ import annotations

IMAGES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "avif", "gif", "bmp")
"""Suffixes of images that :func:`mmvicreg.modalities.decoding.pixels.decode` reads."""
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP")
"""Names that Pillow gives these formats; it opens no others for us."""
RECORDINGS = ("wav", "flac", "ogg", "opus", "mp3", "aiff")
"""Suffixes of recordings that libsndfile reads."""
TABLES = ("json", "csv")
"""Suffixes of members that hold one record."""
MAX_BYTES = 64_000_000
"""Bytes of the largest image that is read."""


def is_image(suffix: str) -> bool:
    """Whether a file or member suffix, with or without a leading dot, in any case, is of an image we decode."""
    return suffix.lower().removeprefix(".") in IMAGES
