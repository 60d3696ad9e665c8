"""Text and JSON records from the bytes of a member: decoded in one place, with every fault a rejected sample."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from mmvicreg.stream.reader import BadSampleError, decoding

MAX_BYTES = 1_000_000
"""A larger member is rejected before it is decoded (chosen; captions and records are below 10 kB)."""
MAX_DIGITS = 400
"""A JSON integer with more digits counts as not a number (the largest float64 has 309 digits)."""


def read_text(data: bytes, suffix: str) -> str:
    """UTF-8 text, a byte-order mark left out. Raises BadSampleError for other bytes and above MAX_BYTES."""
    if len(data) > MAX_BYTES:
        raise BadSampleError(
            f"member too large: {suffix} has {len(data):,} bytes, at most {MAX_BYTES:,} are read"
        )
    with decoding(f"member {suffix!r} is not UTF-8 text"):
        return data.decode("utf-8-sig")


def read_record(data: bytes, suffix: str) -> dict[str, Any]:
    """The JSON object that a member holds; its strings are all valid Unicode.

    Raises BadSampleError for other JSON, for nesting deeper than Python reads, and for lone surrogates, which no
    tokenizer or file can hold.
    """
    text = read_text(data, suffix)
    with decoding(f"member {suffix!r} is not JSON"):
        found = json.loads(text, parse_int=_integer)
    if not isinstance(found, dict):
        raise BadSampleError(
            f"not a record: member {suffix!r} holds {type(found).__name__}, expected a JSON object"
        )
    # Only an escape can make a surrogate: the bytes themselves are valid UTF-8.
    if "\\ud" in text or "\\uD" in text:
        _refuse_surrogates(found, suffix)
    return found


def read_csv_record(data: bytes, suffix: str) -> dict[str, Any] | None:
    """The first record below a header line; None where there is none. Raises BadSampleError."""
    text = read_text(data, suffix)
    with decoding(f"member {suffix!r} is not a CSV table"):
        return next(csv.DictReader(io.StringIO(text, newline="")), None)


def _integer(digits: str) -> int | float:
    """Python refuses to convert thousands of digits; such a value is infinite for every reader."""
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def _refuse_surrogates(found: dict[str, Any], suffix: str) -> None:
    with decoding(f"member {suffix!r} holds a lone surrogate, which is not text"):
        json.dumps(found, ensure_ascii=False).encode("utf-8")


def captions_of(
    members: Mapping[str, bytes], places: tuple[str, ...], languages: tuple[str, ...] = ()
) -> list[str]:
    """The captions at the first of ``places`` where a sample has any, blank ones left out; else an empty list.

    Each place is a member suffix, whose lines are a caption each (as CLIP_benchmark writes them), or ``json:FIELD``.
    Raises BadSampleError for bytes that are not UTF-8 or JSON.
    """
    for place in places:
        found = captions_at(members, place, languages)
        if found:
            return found
    return []


def captions_at(members: Mapping[str, bytes], place: str, languages: tuple[str, ...] = ()) -> list[str]:
    """The captions of a sample at one place, blank ones left out; see :func:`captions_of`."""
    suffix, _, field = place.partition(":")
    data = members.get(suffix)
    if data is None:
        return []
    value: Any = read_record(data, suffix).get(field) if field else read_text(data, suffix).split("\n")
    return _texts(value, languages)


def _texts(value: Any, languages: tuple[str, ...]) -> list[str]:
    """A string, a list of them, or a map from language to either, as one list."""
    if isinstance(value, dict):
        return [
            text
            for language in (languages or value)
            if language in value
            for text in _texts(value[language], ())
        ]
    found = value if isinstance(value, list) else [value]
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]
