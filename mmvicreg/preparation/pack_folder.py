"""Samples of a folder: each picture with the files beside it that share its stem."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.formats import is_image
from mmvicreg.preparation.records import Content, ImageFolder, LeftOut, Record, split_lines, suffix_of

SYSTEM = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""Files and folders of operating systems, left out silently beside all that begin with a dot (``._x.jpg``)."""
MASK = ".mask.png"


def from_folder(root: Path, *, outside: bool) -> Iterator[Record | LeftOut]:
    """Records of the pictures below ``root``, in the order of their paths.

    ``x.txt`` holds the captions of ``x.jpg``, one a line, ``x.json`` its fields, ``x.cls`` its class, ``x.mask.png``
    its mask. Linked folders are followed where they stay inside ``root`` or ``outside`` is True.
    """
    pictures = ImageFolder(root, outside=outside)
    yield from _walk(root, pictures, frozenset())


def _walk(folder: Path, pictures: ImageFolder, above: frozenset[Path]) -> Iterator[Record | LeftOut]:
    real = folder.resolve()
    shown = str(folder.relative_to(pictures.root))
    if real in above:
        yield LeftOut(shown, "a link to a folder that it lies in")
        return
    if not pictures.contains(folder):
        yield LeftOut(shown, f"a link out of {pictures.root}; --outside allows it")
        return
    entries = sorted(
        (entry for entry in os.scandir(folder) if not _hidden(entry.name)), key=lambda entry: entry.name
    )
    yield from _files([Path(entry) for entry in entries if not entry.is_dir()], pictures)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry), pictures, above | {real})


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _files(paths: list[Path], pictures: ImageFolder) -> Iterator[Record | LeftOut]:
    found: list[tuple[Path, str]] = []
    beside: dict[str, dict[str, Path]] = {}
    for path in paths:
        stem, suffix = os.path.splitext(path.name)
        if path.name.endswith(MASK):
            beside.setdefault(path.name.removesuffix(MASK), {})["mask.png"] = path
        elif suffix.lower() in (".txt", ".json", ".cls"):
            beside.setdefault(stem, {})[suffix[1:].lower()] = path
        else:
            try:
                found.append((path, _suffix(path, pictures)))
            except (InvalidValueError, OSError) as error:
                yield LeftOut(str(path.relative_to(pictures.root)), str(error))
    stems = Counter(
        os.path.splitext(path.name)[0] if is_image(path.suffix) else path.name for path, _ in found
    )
    used = set[str]()
    for path, suffix in found:
        stem = os.path.splitext(path.name)[0] if is_image(path.suffix) else path.name
        used.add(stem)
        name = path.relative_to(pictures.root)
        yield from _record(
            path, suffix, str(name if stems[stem] > 1 else name.with_name(stem)), beside, pictures
        )
    for stem in beside.keys() - used:
        for path in beside[stem].values():
            yield LeftOut(str(path.relative_to(pictures.root)), "no picture beside it has its name")


def _suffix(path: Path, pictures: ImageFolder) -> str:
    if not pictures.contains(path):
        raise InvalidValueError(f"a link out of {pictures.root}; --outside allows it")
    if not path.is_file():
        raise InvalidValueError("a link to a file that does not exist, or not a file")
    return suffix_of(path, path.name)


def _record(
    path: Path, suffix: str, name: str, beside: dict[str, dict[str, Path]], pictures: ImageFolder
) -> Iterator[Record | LeftOut]:
    file = str(path.relative_to(pictures.root))
    stem = os.path.splitext(path.name)[0] if is_image(path.suffix) else path.name
    extra = beside.get(stem, {})
    members: dict[str, Content] = {suffix: path}
    captions: list[str] = []
    about: dict[str, Any] = {}
    for kind, where in extra.items():
        if not pictures.contains(where):
            yield LeftOut(
                str(where.relative_to(pictures.root)), "a link out of the folder; --outside allows it"
            )
        elif kind == "txt":
            try:
                captions = split_lines([where.read_text(encoding="utf-8-sig")])
            except (OSError, UnicodeDecodeError) as error:
                yield LeftOut(str(where.relative_to(pictures.root)), f"captions are not UTF-8: {error}")
        elif kind == "json":
            try:
                found = json.loads(where.read_text(encoding="utf-8-sig"))
                about = found if isinstance(found, dict) else {"json": found}
            except (OSError, ValueError, RecursionError) as error:
                yield LeftOut(str(where.relative_to(pictures.root)), f"not JSON: {error}")
        else:
            members[kind] = where
    yield Record(name, file, members, tuple(captions), (), about, group=str(Path(name).with_suffix("")))
