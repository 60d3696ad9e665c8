"""Labelled data as users have it: shards, folders of pictures by class, and files of class names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from webdataset import TarWriter

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.transfer.labels import Labelled, LabelReader, labels_of
from mmvicreg.files import write_with
from mmvicreg.modalities.decoding.formats import IMAGES, is_image
from mmvicreg.shards.index import open_index

NOT_CLASSES = ("__MACOSX",)
"""Folders that archives leave behind; so are folders and files whose name begins with a dot."""


def open_labelled(data: str, label: str = "cls", *, cache: str | Path, names: Sequence[str] = ()) -> Labelled:
    """Shards with labels in ``label``, or an image folder CLASS/PICTURE, packed as a shard under ``cache``.

    ``names``: of the classes, in the order of their numbers; of a folder, see :func:`pack_folder`. Raises
    FileNotFoundError or ValueError where there is no data or no label.
    """
    named, known = list(names), tuple(names)
    if Path(data).is_dir():
        source = Path(data).resolve()
        own = hashlib.sha256(str(source).encode()).hexdigest()[:8]  # two folders may both be called "train"
        packed = Path(cache) / f"{source.name}-{own}-000000.tar"
        packed.parent.mkdir(parents=True, exist_ok=True)
        named = pack_folder(data, packed, order=names)
        # Labels of the shard are numbers: of folders called 1, 2, ..., label 1 must not be taken for the name 1.
        data, label, known = str(packed), "cls", ()
    index = open_index(data)
    return Labelled(index, labels_of(index, label, known), named, LabelReader(label, known))


def check_same_classes(train: Labelled, test: Labelled) -> None:
    """Raises ValueError where classes differ, or are named on one side only: their numbers may not mean the same."""
    if bool(train.names) != bool(test.names):
        raise InvalidValueError(
            "--train and --test: one is a folder, whose classes are numbered in the order of their names, the other "
            "has class numbers alone; give --names FILE with the folder's names in the order of those numbers"
        )
    if train.names and test.names and train.names != test.names:
        odd = sorted(set(train.names) ^ set(test.names))
        listed = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise InvalidValueError(
            f"--train and --test hold different classes ({listed}); give both the same class folders"
        )


def pack_folder(folder: str | Path, shard: str | Path, *, order: Sequence[str] = ()) -> list[str]:
    """Write an image folder (CLASS/PICTURE) as one shard with ``cls`` members, numbers; class names, by number.

    Numbers follow the sorted names of the folders. ``order``: names by number; where the folders are among them, their
    numbers are those; where none is, they are other names of the sorted folders (as of ImageNet's synsets).

    Hidden folders and files (``.ipynb_checkpoints``, ``._x.jpg``) and ``__MACOSX`` are left out with a notice. Raises
    FileNotFoundError or ValueError where there are no classes, one of them has no picture, or ``order`` does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder")
    entries = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    names = [name for name in entries if not name.startswith(".") and name not in NOT_CLASSES]
    if len(names) < len(entries):
        left = ", ".join(sorted(set(entries) - set(names)))
        Console(stderr=True).print(f"notice: {folder}: no classes, left out: {left}", markup=False)
    files = {name: [file for file in sorted((folder / name).rglob("*")) if _shown(file)] for name in names}
    empty = [name for name, found in files.items() if not found]
    if empty or not names:
        listed = f"none in {', '.join(empty[:5])}" if empty else "no class folders"
        raise InvalidValueError(
            f"{folder}: {listed}; expected folders CLASS/PICTURE with {', '.join(IMAGES)} in each "
            f"({len(names)} class folders, {len(empty)} of them without a picture)"
        )
    ordered = _ordered(names, order, folder)
    write_with(Path(shard), lambda partial: _write_shard(partial, [files.get(name, []) for name in ordered]))
    return list(order) or names


def _ordered(names: list[str], order: Sequence[str], folder: Path) -> list[str]:
    """Folder names by class number."""
    unknown = sorted(set(names) - set(order))
    if not order or len(unknown) == len(names) == len(order):
        return names
    if unknown:
        raise InvalidValueError(
            f"{folder}: {len(unknown)} of {len(names)} class folders are not among the {len(order)} class names, the "
            f"first is {unknown[0]!r}; expected the names of all folders, or as many other names in the folders' order"
        )
    return list(order)


def _shown(file: Path) -> bool:
    return is_image(file.suffix) and not any(part.startswith(".") for part in (file.name, file.parent.name))


def _write_shard(shard: Path, files: Sequence[Sequence[Path]]) -> None:
    pairs = [(label, file) for label, found in enumerate(files) for file in found]
    with open(shard, "wb") as stream, TarWriter(stream) as writer:
        for number, (label, file) in enumerate(pairs):
            sample = {file.suffix.lower()[1:]: file.read_bytes(), "cls": str(label).encode()}
            writer.write({"__key__": f"{number:08d}", **sample})


def read_lines(path: str | Path) -> list[str]:
    """Class names or templates: one a line, blank lines left out, or JSON.

    JSON is a list of names, {name: number}, {number: name}, {number: [identifier, name]} (the form of
    ``imagenet_class_index.json``) or a configuration with ``id2label``. Raises FileNotFoundError, or ValueError where
    the numbers are not 0, 1, 2, ...
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"{path}: no such file; expected class names or templates, one a line, or JSON"
        )
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix != ".json":
        # str.splitlines would also divide at form feeds and U+2028, and move the numbers of all later classes.
        return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidValueError(f"{path} is not JSON: {error}") from None
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        return found
    return _by_number(found, path)


def _by_number(found: Any, path: Path) -> list[str]:
    found = found["id2label"] if isinstance(found, dict) and "id2label" in found else found
    if not isinstance(found, Mapping) or not found:
        raise InvalidValueError(
            f"{path}: expected a JSON list of class names, or an object of names and numbers"
        )
    if all(isinstance(value, int) for value in found.values()):
        named = {int(number): name for name, number in found.items()}
    elif all(key.isdigit() for key in found):
        named = {int(key): value[-1] if isinstance(value, list) else value for key, value in found.items()}
    else:
        raise InvalidValueError(f"{path}: neither the keys nor the values of the object are class numbers")
    if sorted(named) != list(range(len(found))) or not all(isinstance(name, str) for name in named.values()):
        raise InvalidValueError(
            f"{path}: expected names for the classes 0 to {len(found) - 1}, found the numbers {sorted(named)[:5]} ..."
        )
    return [named[number] for number in range(len(named))]
