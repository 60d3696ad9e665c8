"""Bytes of a caption to token ids, and the word-embedding GRU of the VICReg paper's text branch.

Ids below 0 are padding for transformers and the GRU (the mask travels with the ids); open_clip's own
tokenizers pad with 0, as its towers expect.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.modalities.encoders import pretrained as towers
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

MAX_CAPTION_BYTES = 1_000_000
"""A longer member is rejected before it is parsed (chosen; captions are below 10 kB)."""

PLAIN = re.compile(r"[\t\n -%'-~]*")
"""Text that CLIP's cleaning leaves as it is, but for white space and case."""
WORDS = 100_000
"""Words whose ids are remembered."""


def captions_of(members: Mapping[str, bytes], caption: str, languages: tuple[str, ...] = ()) -> list[str]:
    """Every caption of a sample, blanks left out; an empty list where the member or field is missing.

    ``caption`` is a member suffix, or ``json:FIELD``. Raises BadSampleError for bytes that are no UTF-8 or JSON.
    """
    suffix, _, field = caption.partition(":")
    data = members.get(suffix)
    if data is None:
        return []
    if len(data) > MAX_CAPTION_BYTES:
        raise BadSampleError(f"caption of {len(data)} bytes; at most {MAX_CAPTION_BYTES} are read")
    try:
        text = data.decode("utf-8")
        value: Any = json.loads(text).get(field) if field else text
    except UnicodeDecodeError as error:
        raise BadSampleError(f"caption is not UTF-8: {error}") from None
    except (json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise BadSampleError(f"member {suffix!r} is not a JSON object: {error}") from None
    if isinstance(value, dict):
        value = [value[name] for name in (languages or value) if name in value]
    found = value if isinstance(value, list) else [value]
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]


@dataclass(frozen=True)
class TextReader(Reader):
    """One caption drawn from a sample's captions for training; all of them for evaluation."""

    encoder: str
    caption: str
    languages: tuple[str, ...]
    length: int
    vocabulary: str

    @property
    def members(self) -> tuple[str, ...]:
        return (self.caption.partition(":")[0],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        found = captions_of(sample.members, self.caption, self.languages)
        if not found:
            return None
        return self._item(found[int(generator.integers(len(found)))])

    def items(self, sample: Sample) -> list[Item]:
        found = captions_of(sample.members, self.caption, self.languages)
        return [self._item(text) for text in dict.fromkeys(found)]

    def encode(self, text: str) -> Tensor:
        """Token ids int64 (length,) of one text."""
        return self._tokenize(text)

    def _item(self, text: str) -> Item:
        return Item(self._tokenize(text), identity=text)

    @cached_property
    def _tokenize(self) -> Callable[[str], Tensor]:
        if self.encoder == "usem3":
            return ByteTokenizer(self.length)
        if self.encoder == "gru":
            return WordTokenizer(read_vocabulary(self.vocabulary), self.length)
        if towers.split(self.encoder)[0] == "open_clip":
            return OpenClipTokenizer(towers.split(self.encoder)[1], self.length)
        return TransformersTokenizer(towers.locate(towers.split(self.encoder)[1]), self.length)

    def __getstate__(self) -> dict[str, Any]:
        # A tokenizer is made again where it is used: it may not pickle, and its file is there anyway.
        return {name: value for name, value in self.__dict__.items() if name != "_tokenize"}


class OpenClipTokenizer:
    """open_clip's tokenizer of one model, for one text.

    CLIP's own (byte-pair merges of lower-case words) is taken apart: ids of a word are remembered, and text of
    printable ASCII without "&" is not repaired, for there is nothing that ftfy and HTML unescaping would change.
    The same ids, at a tenth of the time; open_clip remembers every word that ever was, this a bounded number.
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
        for word in self.tokenizer.pat.findall(clean):
            ids += self._words.get(word) or self._encode(word)
        ids = [*ids[: self.length - 1], self.tokenizer.eot_token_id]
        padded = np.zeros(self.length, np.int64)
        padded[: len(ids)] = ids
        return torch.from_numpy(padded)

    def _encode(self, word: str) -> list[int]:
        tokenizer = self.tokenizer
        if len(self._words) >= WORDS:
            special = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
            self._words, tokenizer.cache = {}, {name: name for name in special}
        letters = "".join(tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
        ids = self._words[word] = [tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" ")]
        return ids


class TransformersTokenizer:
    """The fast tokenizer of a transformers model, for one text.

    Truncation is set once: the wrappers in transformers set it at every call, which threads may not share.
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
    """UTF-8 bytes, for a tower that tokenizes by itself."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, text: str) -> Tensor:
        return _padded(list(text.encode())[: self.length], self.length)


class WordTokenizer:
    """Lower-case words; a word the vocabulary lacks is the word at its end."""

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


def words_of(text: str) -> list[str]:
    """Lower-case words and marks of a text."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def write_vocabulary(captions: Iterable[str], path: str, *, min_count: int = 4) -> int:
    """Write the words that occur ``min_count`` times or more, most frequent first; their number.

    Give it training captions only: VSE++'s published vocabulary was built with the test captions.
    """
    counts = Counter(word for caption in captions for word in words_of(caption))
    words = [
        word
        for word, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        if count >= min_count
    ]
    Path(path).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    return len(words)


@lru_cache(maxsize=8)
def read_vocabulary(path: str) -> tuple[str, ...]:
    """The words of a vocabulary file. Raises FileNotFoundError with what makes one."""
    if not path or not Path(path).is_file():
        raise MissingFileError(
            f"vocabulary {path!r}: no such file; a gru needs a JSON list of words: "
            "mmvicreg.modalities.text_reader.write_vocabulary(captions, path)"
        )
    words = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidValueError(f"vocabulary {path!r}: expected a JSON list of words")
    return tuple(words)


class WordGRU(nn.Module):
    """Word embeddings and one GRU layer; the state after the last word (VSE++ and VICReg section 5.3).

    Ids int64 (n, L), below 0 for padding, to (n, state_width). Id ``words`` stands for unknown words.
    """

    def __init__(self, words: int, *, word_width: int, state_width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 1, word_width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.gru = nn.GRU(word_width, state_width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(x.clamp(min=0)))
        last = (x >= 0).sum(1).clamp(min=1) - 1
        return states[torch.arange(len(x), device=x.device), last]
