"""Where samples to pack come from: a table, or the JSON files of COCO, Karpathy, Flickr30k; folders in pack_folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.preparation.pack_folder import from_folder
from mmvicreg.preparation.records import Columns, Content, ImageFolder, LeftOut, Record, split_lines
from mmvicreg.preparation.tables import TABLES, Row, read_lines, read_table

KNOWN = "a folder; a csv, tsv, jsonl or parquet table; or the captions json of COCO, Karpathy or Flickr30k"


def read_source(
    source: str,
    *,
    images: str = "",
    split: str = "",
    columns: Columns | None = None,
    encoding: str = "utf-8",
    outside: bool = False,
) -> Iterator[Record | LeftOut]:
    """Records of a folder or file, by what it is, and what of it cannot be packed.

    Raises FileNotFoundError where it does not exist, ValueError for what is none of the known kinds.
    """
    path = Path(source)
    if not path.exists():
        raise MissingFileError(f"{source!r} does not exist; give {KNOWN}")
    if images and not Path(images).is_dir():
        raise MissingFileError(f"--images {images}: no such folder; give the folder that the paths begin at")
    if path.is_dir():
        return from_folder(path, outside=outside)
    pictures = ImageFolder(Path(images) if images else path.parent, outside=outside)
    columns = columns or Columns()
    if path.suffix.lower() in TABLES:
        return from_table(read_table(path, encoding=encoding), pictures, columns)
    if path.suffix.lower() != ".json":
        raise InvalidValueError(f"{source!r}: found a file {path.suffix or 'without a suffix'}; give {KNOWN}")
    try:
        content = json.loads("".join(line for _, line in read_lines(path, encoding)))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(
            f"{path}: not one JSON value ({error}); a file with an object a line is called .jsonl"
        ) from None
    if isinstance(content, list):
        return from_table(_listed(content), pictures, columns)
    return from_captions_json(content, pictures, split, path)


def _listed(content: list[Any]) -> Iterator[Row | LeftOut]:
    for number, each in enumerate(content, 1):
        if isinstance(each, dict):
            yield Row(number, each)
        else:
            yield LeftOut(str(each)[:80], f"{type(each).__name__}, expected an object", number)


def from_table(
    rows: Iterable[Row | LeftOut], pictures: ImageFolder, columns: Columns
) -> Iterator[Record | LeftOut]:
    """A record for each picture, with the captions of all its rows, in the order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        if row.number == 1 or not groups:
            _check_columns(row, columns)
        groups.setdefault(_identity(row.values.get(columns.image)), []).append(row)
    for found in groups.values():
        try:
            suffix, file, content = pictures.member(found[0].values[columns.image])
        except (InvalidValueError, KeyError, OSError) as error:
            for row in found:
                yield LeftOut(str(row.values.get(columns.image))[:200], str(error), row.number)
            continue
        yield _of_rows(found, columns, file, {suffix: content})


def _check_columns(row: Row, columns: Columns) -> None:
    for option, name in vars(columns).items():
        if name and name not in row.values:
            raise InvalidValueError(
                f"no column {name!r}; it has {', '.join(row.values)}: choose with --columns.{option}"
            )


def _identity(value: Any) -> str:
    """What tells pictures apart: the path, or a hash of the bytes."""
    content = value.get("bytes") or value.get("path") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return os.path.normpath(str(content))


def _of_rows(found: list[Row], columns: Columns, file: str, members: dict[str, Content]) -> Record:
    texts: list[str] = []
    for row in found:
        value = row.values.get(columns.caption)
        texts += [str(each) for each in value] if isinstance(value, list) else [str(value or "")]
    rest = [name for name in found[0].values if name not in (columns.image, columns.caption)]
    about = {}
    for name in rest:
        values = [row.values.get(name) for row in found]
        about[name] = values[0] if all(value == values[0] for value in values) else values
    labels = dict.fromkeys(str(row.values.get(columns.label, "")).strip() for row in found)
    return Record(
        name=f"{found[0].number:09d}",
        file=file,
        members=members,
        captions=tuple(split_lines(texts)),
        rows=tuple(row.number for row in found),
        about=about,
        labels=tuple(label for label in labels if label) if columns.label else (),
        group=str(found[0].values[columns.group]) if columns.group else "",
    )


def from_captions_json(
    content: Any, pictures: ImageFolder, split: str, path: Path
) -> Iterator[Record | LeftOut]:
    """COCO's captions_*.json, or Karpathy's dataset_coco.json, dataset_flickr30k.json and dataset_flickr8k.json."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InvalidValueError(
            f"{path}: expected an object with images (COCO or Karpathy), found {type(content).__name__}"
        )
    if "annotations" in content:
        yield from _coco(content, pictures, path)
        return
    images = [image for image in content["images"] if "sentences" in image and "filename" in image]
    if not images:
        raise InvalidValueError(
            f"{path}: its images have no sentences; expected a Karpathy file with captions"
        )
    found = sorted({image.get("split", "") for image in images})
    if split and split not in found:
        raise InvalidValueError(f"{path} has no split {split!r}; it has {', '.join(found)}")
    for number, image in enumerate(images, 1):
        if split in ("", image.get("split", "")):
            file = os.path.join(image.get("filepath", ""), image["filename"])
            captions = split_lines(sentence["raw"] for sentence in image["sentences"])
            about = {
                "image_id": image.get("cocoid", image.get("imgid", number)),
                "split": image.get("split", ""),
            }
            yield _of_image(pictures, file, captions, about, number)


def _coco(content: dict[str, Any], pictures: ImageFolder, path: Path) -> Iterator[Record | LeftOut]:
    annotations = content["annotations"]
    if annotations and not any("caption" in annotation for annotation in annotations):
        raise InvalidValueError(
            f"{path}: its annotations have {', '.join(sorted(annotations[0]))} and no caption (an instances file of "
            "COCO or LVIS); give the captions_*.json of the same pictures"
        )
    captions: dict[Any, list[str]] = {}
    known = {image["id"] for image in content["images"]}
    for number, annotation in enumerate(annotations, 1):
        if annotation.get("image_id") not in known or "caption" not in annotation:
            yield LeftOut(
                str(annotation.get("image_id")),
                "an annotation without caption, or of no listed picture",
                number,
            )
        else:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for number, image in enumerate(content["images"], 1):
        texts = split_lines(captions.get(image["id"], []))
        yield _of_image(pictures, image["file_name"], texts, {"image_id": image["id"]}, number)


def _of_image(
    pictures: ImageFolder, file: str, captions: list[str], about: dict[str, Any], number: int
) -> Record | LeftOut:
    try:
        suffix, _, content = pictures.member(file)
    except (InvalidValueError, OSError) as error:
        return LeftOut(file, str(error), number)
    name = os.path.splitext(os.path.basename(file))[0]
    return Record(name, file, {suffix: content}, tuple(captions), (number,), about)
