"""Small encoders with random weights for training from scratch: a residual network and a transformer.

B rows of a batch, L tokens, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pair_heads import Trainable, with_predictions
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

import mmvicreg as mm

VOCABULARY, LENGTH = 30522, 16
"""Word pieces of the tokenizer, and tokens of a caption."""
PAD = -1
ROWS = 256
"""Rows that are encoded at a time when scored."""


class TextTransformer(nn.Module):
    """Word pieces (B, L), PAD after the last, to the mean (B, width) of what two layers make of them."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, batch_first=True, norm_first=True, dropout=0.0
        )
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Representations (B, width)."""
        tokens = tokens_BL.long()
        pad = tokens == PAD
        x = self.words(tokens.clamp(min=0)) + self.places.weight[: tokens.shape[1]]
        x = self.layers(x, src_key_padding_mask=pad)
        return x.masked_fill(pad[..., None], 0).sum(dim=1) / (~pad).sum(dim=1, keepdim=True)


class Centred(nn.Module):
    """Pixels of 0 to 255 as numbers of -1 to 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Of the same shape."""
        return pixels / 127.5 - 1


class Encoders(Trainable):
    """An encoder and a projector of each branch, and the objective."""

    def __init__(self, objective: mm.Objective, *, width: int, predict: bool) -> None:
        super().__init__()
        pictures = ResNet(
            BasicBlock,  # type: ignore[arg-type]  # the class, not one of it
            (1, 1, 1, 1),
            num_classes=0,
            channels=(32, 64, 128, 256),
            stem_width=16,
            stem_type="deep_tiered",
        )
        pictures = pictures.to(memory_format=torch.channels_last)  # faster on a CPU
        self.image = nn.Sequential(Centred(), pictures, mm.projector(256, (512, width)))
        self.text = nn.Sequential(TextTransformer(), mm.projector(128, (512, width)))
        self.objective, self.predict = objective, predict

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of pictures (N, 3, S, S) and word pieces (Q, L) to be compared by cosine."""
        image, text = _in_parts(self.image, image_NE), _in_parts(self.text, text_QE)
        return with_predictions(self.objective, image, text) if self.predict else (image, text)


def _in_parts(encode: Callable[[Tensor], Tensor], rows_NE: Tensor) -> Tensor:
    return torch.cat([encode(part) for part in rows_NE.split(ROWS)])
