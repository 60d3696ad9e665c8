"""Files of benchmarks, which are other people's: read with every surprise turned into a message."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmvicreg.errors import InvalidValueError, MissingFileError


@dataclass(frozen=True)
class MediaFolder:
    """The folder ``--media``, in which the names of a benchmark's files are looked up."""

    root: Path

    def find(self, choices: Sequence[Sequence[str]]) -> list[Path]:
        """The path of each item, by the first of its possible names that exists.

        Raises ValueError for a name that leaves the folder, FileNotFoundError with the first file that is missing and
        their number. Links inside the folder are followed: whoever made the folder made them.
        """
        found, missing = [], []
        for names in choices:
            paths = [self.root / _inside(name) for name in names]
            path = next((path for path in paths if path.is_file()), None)
            missing += [] if path else [names]
            found.append(path or paths[0])
        if missing:
            others = f" (nor {', '.join(missing[0][1:])})" if len(missing[0]) > 1 else ""
            raise MissingFileError(
                f"{self.root / missing[0][0]}: no such file{others}; {len(missing):,} of {len(choices):,} media files "
                f"are missing: give the folder that holds them as --media (found {self.root})"
            )
        return found


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name) if isinstance(name, str) and name and "\0" not in name else None
    if path is None or path.is_absolute() or ".." in path.parts or len(name.encode()) > 1024:
        raise InvalidValueError(
            f"the benchmark names the media file {name!r:.200}, which is not inside --media; expected a relative path "
            "without '..': do not use this file unless you trust where it is from"
        )
    return path


def read_text(path: Path) -> str:
    """The text of a file. Raises FileNotFoundError, and ValueError for what is no UTF-8."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; --benchmark takes NAME:FILE, see docs/evaluation.md")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path}: expected UTF-8 text ({error})") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises ValueError where it is none."""
    return _parse(read_text(path), str(path))


def read_json_lines(path: Path) -> list[tuple[str, Any]]:
    """Where each JSON line is ("FILE line 3") and its value; empty lines are left out."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(at := f"{path} line {n}", _parse(line, at)) for n, line in lines if line.strip()]


def _parse(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{at}: expected JSON ({error})") from None


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row of a CSV file is and its values. Raises ValueError for missing columns and short rows."""
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), strict=True)
    found = [name or "" for name in reader.fieldnames or ()]
    if set(columns) - set(found):
        raise InvalidValueError(
            f"{path}: expected the columns {', '.join(columns)}; found {', '.join(found) or 'none'}"
        )
    try:
        for row in reader:
            at = f"{path} line {reader.line_num}"
            yield at, {name: text_of(row, name, at) for name in columns}
    except csv.Error as error:
        raise InvalidValueError(
            f"{path} line {reader.line_num}: expected comma-separated values ({error})"
        ) from None


def get(value: Any, key: str, kind: type | tuple[type, ...], at: str) -> Any:
    """``value[key]``, which is of this type. Raises ValueError with what is there instead."""
    if not isinstance(value, dict):
        raise InvalidValueError(f"{at}: expected an object with {key!r}, found {type(value).__name__}")
    if not isinstance(value.get(key), kind) or isinstance(value.get(key), bool):
        there = f"{value[key]!r:.80}" if key in value else f"the keys {', '.join(map(str, value))[:200]}"
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(each.__name__ for each in kinds)
        raise InvalidValueError(f"{at}: expected {key!r} of type {expected}, found {there}")
    return value[key]


def text_of(value: Any, key: str, at: str) -> str:
    """A text that is not empty. Raises ValueError as :func:`get`."""
    text = get(value, key, str, at).strip()
    if not text:
        raise InvalidValueError(f"{at}: {key!r} is empty")
    return text


def require(items: Iterable[Any], what: str, path: Path) -> None:
    """Raise ValueError where there are no ``items``."""
    if not list(items):
        raise InvalidValueError(f"{path}: no {what} in it; is this the file of the benchmark's test set?")
