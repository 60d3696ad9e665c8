"""The vocabulary of a word-embedding encoder: made from captions, written and read as a JSON list."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.files import write_text
from mmvicreg.modalities.decoding.records import captions_of
from mmvicreg.progress import bar
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError


def make_vocabulary(
    shards: str, members: tuple[str, ...], path: str, *, min_count: int = 4, cpu: bool = False
) -> int:
    """Write the vocabulary of every caption in ``shards`` to ``path``, unless it is there; the number of words.

    ``members`` says where captions are, as in :class:`mmvicreg.TextModality`. Use training shards only: a vocabulary
    made with test captions tells of them. Under a launcher all processes call this (``cpu`` as in the configuration of
    the run); the main one reads and writes, the others wait. Raises ValueError where no word occurs ``min_count``
    times; nothing is written then.
    """
    distributed.join_processes(cpu=cpu)

    def make() -> int:
        if not Path(path).is_file():
            write_vocabulary(_captions(shards, members), path, min_count=min_count)
        return len(read_vocabulary(path))

    return distributed.on_main_process(make)


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
    """Write the words that occur ``min_count`` times or more, the most frequent first; the number of words.

    Raises ValueError where there are none; nothing is written then.
    """
    counts = Counter(word for caption in captions for word in words_of(caption))
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [word for word, count in ordered if count >= min_count]
    if not words:
        raise InvalidValueError(
            f"vocabulary {path!r}: no word of {counts.total():,} occurs {min_count} times; check that the shards hold "
            "captions where the members say"
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(path), json.dumps(words, ensure_ascii=False))
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
