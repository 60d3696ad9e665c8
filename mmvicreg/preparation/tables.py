"""Rows of CSV, TSV, JSON-lines and Parquet tables, each with its number; a row that cannot be read is reported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError
from mmvicreg.preparation.records import LeftOut

MOST_LINES = 100
"""Lines a quoted CSV field may run over; a longer one is taken for a quote that was never closed (chosen)."""
DELIMITERS = (",", "\t", ";", "|")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row of a table: its number from 1, the header not counted, and its values by column."""

    number: int
    values: dict[str, Any]


def read_table(path: Path, *, encoding: str) -> Iterator[Row | LeftOut]:
    """The rows of a table by its suffix, in order."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind in (".jsonl", ".ndjson"):
        yield from _json_rows(path, encoding)
    elif kind == ".tsv":
        yield from _tsv_rows(path, encoding)
    else:
        yield from _csv_rows(path, encoding)


def read_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its line break); a byte-order mark is left out.

    Raises InvalidValueError for text in another encoding, with the line.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    number = 0
    try:
        with open(path, newline="", encoding="utf-8-sig" if encoding == "utf-8" else encoding) as text:
            for number, line in enumerate(text, 1):
                yield number, line
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"{path}: text after line {number} is not {encoding} ({error.reason}, byte "
            f"{error.object[error.start]:#x}); "
            "expected UTF-8: convert it, or give its encoding, such as --encoding latin-1"
        ) from None
    except LookupError:
        raise InvalidValueError(
            f"--encoding {encoding}: Python knows no such encoding; examples are utf-8, latin-1, cp1252"
        ) from None


def _csv_rows(path: Path, encoding: str) -> Iterator[Row | LeftOut]:
    lines = read_lines(path, encoding)
    first = next(lines, (0, ""))[1]
    delimiter = max(DELIMITERS, key=first.count)
    header = _header(path, next(csv.reader([first], delimiter=delimiter), []))
    number, pending = 0, list[tuple[int, str]]()
    ended = False
    while pending or not ended:
        taken, fields, reason = 1, list[str](), "a quote is opened and not closed"
        for taken in range(1, MOST_LINES + 1):
            if taken > len(pending):
                line = next(lines, None)
                if line is None:
                    ended, taken = True, 1
                    break
                pending.append(line)
            text = "".join(part for _, part in pending[:taken])
            if text.count('"') % 2:
                continue
            fields, reason = _csv_fields(text, delimiter, header)
            taken = taken if fields else 1
            break
        else:
            taken = 1
        if not pending:
            return
        at, shown = pending[0]
        del pending[:taken]
        if not shown.strip() and not fields:
            continue
        number += 1
        if fields:
            yield Row(number, dict(zip(header, fields, strict=True)))
        else:
            yield LeftOut(shown.strip()[:80], f"line {at}: {reason}", number)


def _csv_fields(text: str, delimiter: str, header: list[str]) -> tuple[list[str], str]:
    """The fields of one record, or an empty list and what is wrong with it."""
    try:
        # Not str.splitlines, which also divides at form feeds, U+0085 and U+2028 and would cut captions there.
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return [], f"not a CSV record ({error})"
    return _fitted(records[0] if records else [], header)


def _fitted(fields: list[str], header: list[str]) -> tuple[list[str], str]:
    while len(fields) > len(header) and not fields[-1]:
        fields = fields[:-1]  # empty cells at the end, as spreadsheets write them
    if len(fields) != len(header):
        return (
            [],
            f"{len(fields)} fields, the header has {len(header)}: a text with the delimiter needs quotes",
        )
    return fields, ""


def _tsv_rows(path: Path, encoding: str) -> Iterator[Row | LeftOut]:
    """A line a row: quotes are text, but for a field that is quoted as a whole."""
    header: list[str] = []
    number = 0
    for at, line in read_lines(path, encoding):
        fields = [_unquoted(field) for field in line.rstrip("\r\n").split("\t")]
        if at == 1:
            header = _header(path, fields)
        elif line.strip():
            number += 1
            fields, reason = _fitted(fields, header)
            if fields:
                yield Row(number, dict(zip(header, fields, strict=True)))
            else:
                yield LeftOut(line.strip()[:80], f"line {at}: {reason}", number)


def _unquoted(field: str) -> str:
    inner = field[1:-1].replace('""', "\0") if len(field) > 1 and field[0] == field[-1] == '"' else '"'
    return field if '"' in inner else inner.replace("\0", '"')


def _header(path: Path, names: list[str]) -> list[str]:
    names = [name.strip() for name in names]
    if not any(names) or len(set(names)) < len(names):
        raise InvalidValueError(f"{path}: the first line must name the columns, each once; found {names}")
    return names


def _json_rows(path: Path, encoding: str) -> Iterator[Row | LeftOut]:
    number = 0
    for at, line in read_lines(path, encoding):
        if not line.strip():
            continue
        number += 1
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield LeftOut(line.strip()[:80], f"line {at}: not JSON ({error})", number)
            continue
        if isinstance(found, dict):
            yield Row(number, found)
        else:
            yield LeftOut(line.strip()[:80], f"line {at}: {type(found).__name__}, expected an object", number)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InvalidValueError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    number = 0
    for batch in ParquetFile(path).iter_batches(1024):
        for values in batch.to_pylist():
            number += 1
            yield Row(number, values)
