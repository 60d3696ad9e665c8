"""What the sources of ``mmvicreg pack`` yield: samples to pack, and rows or files that had to be left out."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import file_name
from mmvicreg.modalities.decoding.formats import IMAGES, PILLOW_FORMATS, is_image

Content = bytes | Path
"""A member: its bytes, or the file that the packing process reads."""
SUFFIX_OF = {"JPEG": "jpg", "MPO": "jpg"} | {name: name.lower() for name in PILLOW_FORMATS if name != "JPEG"}

LINE_BREAK = re.compile(r"\r\n|\r|\n")
"""What stands between captions; str.splitlines would divide one at U+0085, the dots of cp1252 read as Latin-1."""


@dataclass(frozen=True)
class Record:
    """One sample to pack."""

    name: str
    """what its key is made from; slashes and dots become underscores"""
    file: str
    """file name of the picture as the source gives it"""
    members: dict[str, Content]
    """picture, mask and whatever lies beside them, by suffix"""
    captions: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    """rows of the table that it was made from, from 1"""
    about: dict[str, Any] = field(default_factory=dict)
    """other columns or fields, for the json member"""
    labels: tuple[str, ...] = ()
    group: str = ""
    """records of one group go to the same part of a division"""


@dataclass(frozen=True)
class LeftOut:
    """A row, file or sample that is not in the shards, and why."""

    file: str
    reason: str
    row: int | None = None
    """row of the table, from 1; None for a file of a folder"""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; the others go into the json member."""

    image: str = "image"
    """column with the path of an image, or its bytes"""
    caption: str = "caption"
    """column with a caption, or a list of them"""
    label: str = ""
    """column with a class: digits are class numbers, other texts are numbered by a file of class names that is written
    beside the shards; empty for none"""
    group: str = ""
    """column whose equal values stay together when data is divided, such as a patient; empty for the image"""


class ImageFolder:
    """The folder that pictures may come from. Paths that lead out of it are refused unless ``outside`` is True."""

    def __init__(self, root: Path, *, outside: bool) -> None:
        self.root, self.outside, self._real = root, outside, root.resolve()

    def contains(self, path: Path) -> bool:
        """Whether ``path``, its symbolic links followed, may be read."""
        return self.outside or path.resolve().is_relative_to(self._real)

    def member(self, value: Any) -> tuple[str, str, Content]:
        """(suffix, file name, content) of a table's picture: a path, bytes, or {"bytes", "path"}.

        Raises InvalidValueError with the reason where it cannot be packed.
        """
        name = ""
        if isinstance(value, dict):  # how Hugging Face datasets keeps pictures
            name = str(value.get("path") or "")
            value = value.get("bytes") or name
        if isinstance(value, bytes):
            return suffix_of(value, name), name, value
        if not isinstance(value, str) or not value:
            raise InvalidValueError(
                f"a picture is {type(value).__name__} {str(value)[:50]!r}; expected bytes or a path"
            )
        path = self.root / file_name(value)
        if not self.contains(path):
            raise InvalidValueError(
                f"{value} lies outside the folder of pictures {self.root}; --outside allows it"
            )
        if not path.is_file():
            raise InvalidValueError(f"no such picture: {path}")
        return suffix_of(path, value), value, path


def suffix_of(content: Content, name: str = "") -> str:
    """Suffix of a picture in lower case: from its name, or else from its first bytes.

    Raises InvalidValueError where it is of no format that the readers decode.
    """
    suffix = os.path.splitext(name)[1][1:].lower()
    if is_image(suffix):
        return suffix
    try:
        return SUFFIX_OF[image_format(content)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InvalidValueError(
            f"{name or 'the picture'} is not a picture in a format that is read ({', '.join(IMAGES)}); "
            "convert it first"
        ) from None


def image_format(content: Content) -> str:
    """Pillow's name of the format, from the header. Raises OSError or ValueError for what is no picture."""
    with Image.open(
        io.BytesIO(content) if isinstance(content, bytes) else content, formats=PILLOW_FORMATS
    ) as image:
        return image.format or ""


def split_lines(texts: Iterable[str]) -> list[str]:
    """Captions, one a line; blank lines dropped, spaces at the ends removed, Unicode composed (NFC)."""
    found = [unicodedata.normalize("NFC", line).strip() for text in texts for line in LINE_BREAK.split(text)]
    return [line for line in found if line]
