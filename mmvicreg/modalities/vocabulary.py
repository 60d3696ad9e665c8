"""The words of a data set's captions, for a word-embedding encoder."""

from __future__ import annotations

from collections.abc import Iterator

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.text_reader import captions_of, write_vocabulary
from mmvicreg.progress import bar
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetch import Fetcher
from mmvicreg.stream.reader import BadSampleError


def make_vocabulary(shards: str, caption: str, path: str, *, min_count: int = 4) -> int:
    """Write the vocabulary of every caption in ``shards`` to ``path``; the number of words.

    ``caption`` as in TextModality. Use training shards only. Raises ValueError where no caption is found.
    """
    words = write_vocabulary(_captions(shards, caption), path, min_count=min_count)
    if not words:
        raise InvalidValueError(
            f"no word occurs {min_count} times in {caption!r} of {shards!r}; is that where captions are?"
        )
    return words


def _captions(shards: str, caption: str) -> Iterator[str]:
    index = open_index(shards)
    fetch, suffix = Fetcher(index), caption.partition(":")[0]
    with bar("read captions", len(index)) as advance:
        for number in range(len(index)):
            try:
                yield from captions_of(fetch(*index.place(number), (suffix,)).members, caption)
            except BadSampleError:
                pass  # the stream rejects it too, and says so
            advance(1, "")
