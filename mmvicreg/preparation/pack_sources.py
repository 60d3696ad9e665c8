"""Where samples to pack come from: folders, tables, and the JSON files of COCO, Karpathy and Flickr30k.

A record names its members; content is bytes, or the path of a file that the packing process reads.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError, MissingFileError

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
Content = bytes | Path


@dataclass(frozen=True)
class Record:
    """One sample to pack: its key (no dots) and {suffix: bytes, or a file to read}."""

    key: str
    members: dict[str, Content]


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; the others go into the .json member."""

    image: str = "image"
    caption: str = "caption"


def read_source(source: str, *, images: str, split: str, columns: Columns) -> Iterator[Record]:
    """Records of a folder or file, by what it is. Raises ValueError for what is none of them."""
    path = Path(source)
    if path.is_dir():
        return from_folder(path)
    if not path.exists():
        raise MissingFileError(
            f"{source!r} does not exist; give a folder, or a csv, tsv, jsonl, parquet or json file"
        )
    root = Path(images) if images else path.parent
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return from_table(_csv_rows(path), root, columns)
    if kind == ".jsonl":
        return from_table(_jsonl_rows(path), root, columns)
    if kind == ".parquet":
        return from_table(_parquet_rows(path), root, columns)
    if kind == ".json":
        return from_captions_json(path, root, split)
    raise InvalidValueError(f"{source!r}: expected a folder, or a csv, tsv, jsonl, parquet or json file")


def from_folder(root: Path) -> Iterator[Record]:
    """Pictures below ``root`` and the files beside them that share their stem; keys are relative paths."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        stems: dict[str, dict[str, Content]] = {}
        for name in sorted(files):
            stem, _, suffix = name.rpartition(".")
            if stem and suffix.lower() in (*PICTURES, "txt", "json"):
                stems.setdefault(stem, {})[suffix.lower()] = Path(folder, name)
        for stem, members in stems.items():
            if any(suffix in members for suffix in PICTURES):
                yield Record(_key(str(Path(folder, stem).relative_to(root))), members)


def from_table(rows: Iterator[dict[str, Any]], root: Path, columns: Columns) -> Iterator[Record]:
    """Rows with a picture (a path, bytes, or {"bytes", "path"}) and a caption (text, or a list of them)."""
    for number, row in enumerate(rows):
        for name in (columns.image, columns.caption):
            if name not in row:
                raise InvalidValueError(f"row {number} has no column {name!r}; it has {', '.join(row)}")
        picture, captions = row[columns.image], row[columns.caption]
        rest = {k: v for k, v in row.items() if k not in (columns.image, columns.caption)}
        yield Record(f"{number:09d}", {**_picture(picture, root), **_text(captions, rest)})


def from_captions_json(path: Path, root: Path, split: str) -> Iterator[Record]:
    """COCO's captions_*.json, or Karpathy's dataset_coco.json, dataset_flickr30k.json and dataset_flickr8k.json."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "images" not in content:
        raise InvalidValueError(
            f"{path}: expected an object with images (COCO or Karpathy), found {type(content).__name__}"
        )
    if "annotations" in content:
        captions: dict[int, list[str]] = {}
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
        for image in content["images"]:
            members = _picture(image["file_name"], root)
            extra = {"image_id": image["id"]}
            yield Record(
                _key(Path(image["file_name"]).stem),
                {**members, **_text(captions.get(image["id"], []), extra)},
            )
        return
    found = sorted({image["split"] for image in content["images"]})
    if split and split not in found:
        raise InvalidValueError(f"{path} has no split {split!r}; it has {', '.join(found)}")
    for image in content["images"]:
        if split in ("", image["split"]):
            name = os.path.join(image.get("filepath", ""), image["filename"])
            sentences = [sentence["raw"].strip() for sentence in image["sentences"]]
            extra = {"image_id": image.get("cocoid", image["imgid"]), "split": image["split"]}
            yield Record(
                _key(Path(image["filename"]).stem), {**_picture(name, root), **_text(sentences, extra)}
            )


def _picture(value: Any, root: Path) -> dict[str, Content]:
    if isinstance(value, dict):  # how Hugging Face datasets keeps pictures
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return {_suffix_of(value): value}
    if not isinstance(value, str) or not value:
        raise InvalidValueError(
            f"a picture is {type(value).__name__} {str(value)[:50]!r}; expected bytes or a path"
        )
    return {value.rpartition(".")[2].lower(): root / value}


def _suffix_of(data: bytes) -> str:
    for start, suffix in ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp")):
        if data.startswith(start):
            return suffix
    return "webp" if data[8:12] == b"WEBP" else "jpg"


def _text(captions: Any, extra: dict[str, Any]) -> dict[str, Content]:
    texts = [captions] if isinstance(captions, str) else list(captions if captions is not None else [])
    members: dict[str, Content] = {"txt": str(texts[0]).encode()} if texts else {}
    described = {**extra, **({"captions": texts} if len(texts) > 1 else {})}
    return {**members, **({"json": json.dumps(described, default=str).encode()} if described else {})}


def _key(name: str) -> str:
    return name.replace(os.sep, "_").replace(".", "_")


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InvalidValueError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    for batch in ParquetFile(path).iter_batches(1024):
        yield from batch.to_pylist()
