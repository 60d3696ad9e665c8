"""The vocabulary of a word-embedding encoder: made from captions, written and read as a JSON list."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.modalities.decoding.records import captions_of
from mmvicreg.progress import bar
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError


def make_vocabulary(shards: str, members: tuple[str, ...], path: str, *, min_count: int = 4) -> int:
    """Write the vocabulary of every caption in ``shards`` to ``path``; the number of words.

    ``members`` says where captions are, as in :class:`mmvicreg.TextModality`. Use training shards only: a vocabulary
    made with test captions tells of them. Raises ValueError where no word occurs ``min_count`` times.
    """
    words = write_vocabulary(_captions(shards, members), path, min_count=min_count)
    if not words:
        raise InvalidValueError(
            f"no word occurs {min_count} times in {', '.join(members)} of {shards!r}; check that captions are there"
        )
    return words


def _captions(shards: str, members: tuple[str, ...]) -> Iterator[str]:
    index = open_index(shards)
    fetch, suffixes = Fetcher(index), tuple(place.partition(":")[0] for place in members)
    with bar("read captions", len(index)) as advance:
        for number in range(len(index)):
            try:
                yield from captions_of(fetch(*index.place(number), suffixes).members, members)
            except BadSampleError:
                pass  # training rejects the same sample and reports it
            advance(1, "")


def words_of(text: str) -> list[str]:
    """Lower-case words and punctuation marks of a text."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def write_vocabulary(captions: Iterable[str], path: str, *, min_count: int = 4) -> int:
    """Write the words that occur ``min_count`` times or more, the most frequent first; the number of words."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [word for word, count in ordered if count >= min_count]
    Path(path).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    return len(words)


@lru_cache(maxsize=8)
def read_vocabulary(path: str) -> tuple[str, ...]:
    """The words of a vocabulary file. Raises FileNotFoundError that says how to make one, and ValueError."""
    if not path or not Path(path).is_file():
        raise MissingFileError(
            f"vocabulary {path!r}: no such file; encoder gru needs a JSON list of words, which "
            "mmvicreg.make_vocabulary(shards, members, path) writes"
        )
    try:
        words = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"vocabulary {path!r} is not JSON: {error}") from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidValueError(f"vocabulary {path!r}: expected a JSON list of words")
    return tuple(words)
