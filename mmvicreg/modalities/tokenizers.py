"""Tokenizers: one text to token ids of a fixed length.

Padding is -1 for transformers and word vocabularies, so that the attention mask travels with the ids; open_clip's own
tokenizers pad with the number that its towers expect.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.encoders import pretrained
from mmvicreg.modalities.encoders.weights import locate
from mmvicreg.modalities.vocabulary import read_vocabulary, words_of

PLAIN = re.compile(r"[\t\n -%'-~]*")
"""Text that CLIP's cleaning changes in nothing but white space and case."""
WORDS = 100_000
"""Words whose ids are remembered."""
LETTERS = 64
"""Letters of the longest word that is remembered."""


def tokenizer_of(encoder: str, *, length: int, vocabulary: str = "") -> Callable[[str], Tensor]:
    """The tokenizer of a text encoder: a text to token ids int64 (length,).

    ``encoder`` is that of :class:`mmvicreg.TextModality`, ``vocabulary`` the word file of a gru.
    """
    if encoder == "usem3":
        return ByteTokenizer(length)
    if encoder == "gru":
        return WordTokenizer(read_vocabulary(vocabulary), length)
    library, name = pretrained.split(encoder)
    if library == "open_clip":
        return OpenClipTokenizer(name, length)
    return TransformersTokenizer(locate(name), length)


class OpenClipTokenizer:
    """open_clip's tokenizer of one model, for one text.

    For CLIP's own tokenizer (byte-pair merges of lower-case words), the ids of each word are remembered, and ftfy and
    HTML unescaping are skipped for printable ASCII without "&", which they never change. The ids are the same, in a
    tenth of the time. open_clip's own memory of words grows without bound; this one is bounded. Words after the last
    token that fits are not encoded.
    """

    def __init__(self, name: str, length: int) -> None:
        import open_clip
        from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

        self.tokenizer: Any = open_clip.get_tokenizer(name, context_length=length)
        self.length = length
        self._words: dict[str, list[int]] = {}
        self._takes_words = (
            type(self.tokenizer) is SimpleTokenizer
            and self.tokenizer.clean_fn is get_clean_fn("lower")
            and self.tokenizer.reduction_fn is None
        )

    def __call__(self, text: str) -> Tensor:
        if not self._takes_words:
            return self.tokenizer([text])[0].to(torch.int64)
        clean = text.lower() if PLAIN.fullmatch(text) else self.tokenizer.clean_fn(text)
        ids = [self.tokenizer.sot_token_id]
        for word in self.tokenizer.pat.finditer(clean):
            ids += self._words.get(word[0]) or self._encode(word[0])
            if len(ids) >= self.length:
                break
        ids = [*ids[: self.length - 1], self.tokenizer.eot_token_id]
        padded = np.zeros(self.length, np.int64)
        padded[: len(ids)] = ids
        return torch.from_numpy(padded)

    def _encode(self, word: str) -> list[int]:
        tokenizer = self.tokenizer
        letters = [tokenizer.byte_encoder[byte] for byte in word.encode("utf-8")]
        special = tokenizer.cache.get("".join(letters))  # nothing else is put there
        letters[-1] += "</w>"
        parts = special.split(" ") if special else merged(letters, tokenizer.bpe_ranks)
        ids = [tokenizer.encoder[part] for part in parts]
        if len(word) <= LETTERS:
            if len(self._words) >= WORDS:
                self._words = {}
            self._words[word] = ids
        return ids


def merged(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: neighbours are merged, the pair of lowest rank first, the leftmost of equal ones first.

    The symbols that open_clip's ``SimpleTokenizer.bpe`` gives, in n log n steps for n symbols in place of n squared: a
    "word" of 100,000 letters takes it hours.
    """
    parts: list[str] = list(symbols)
    after = list(range(1, len(parts) + 1))
    before = list(range(-1, len(parts) - 1))
    heap: list[tuple[int, int, str, str]] = []

    def offer(left: int) -> None:
        if left >= 0 and after[left] < len(parts):
            pair = parts[left], parts[after[left]]
            if pair in ranks:
                heapq.heappush(heap, (ranks[pair], left, *pair))

    for left in range(len(parts)):
        offer(left)
    while heap:
        _, left, first, second = heapq.heappop(heap)
        right = after[left]
        if parts[left] != first or right >= len(parts) or parts[right] != second:
            continue  # a neighbour was merged since; a symbol that is part of its left one is empty
        parts[left], parts[right] = first + second, ""
        after[left] = after[right]
        if after[left] < len(parts):
            before[after[left]] = left
        offer(before[left])
        offer(left)
    return [part for part in parts if part]


class TransformersTokenizer:
    """The fast tokenizer of a transformers model, for one text.

    Truncation is set once: the wrappers in transformers set it at every call, which is not safe in threads.
    """

    def __init__(self, folder: str, length: int) -> None:
        from transformers import AutoTokenizer

        try:
            loaded: Any = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InvalidValueError(
                f"no tokenizer in {folder!r}; expected tokenizer.json there ({error})"
            ) from None
        self.tokenizer = loaded.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length=length)
        self.length = length

    def __call__(self, text: str) -> Tensor:
        return _padded(self.tokenizer.encode(text).ids, self.length)


class ByteTokenizer:
    """UTF-8 bytes, for a tower that has its own tokenizer inside."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, text: str) -> Tensor:
        return _padded(list(text.encode())[: self.length], self.length)


class WordTokenizer:
    """Numbers of lower-case words; unknown words map to the number after the last word."""

    def __init__(self, words: tuple[str, ...], length: int) -> None:
        self.number = {word: number for number, word in enumerate(words)}
        self.length = length

    def __call__(self, text: str) -> Tensor:
        unknown = len(self.number)
        return _padded(
            [self.number.get(word, unknown) for word in words_of(text)][: self.length], self.length
        )


def _padded(ids: list[int], length: int) -> Tensor:
    padded = torch.full((length,), -1, dtype=torch.int64)
    padded[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return padded
