"""A recurrent encoder of words, trained from random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordGRU(nn.Module):
    """Word embeddings and one GRU layer; the state after the last word (VSE++, arXiv 1707.05612; VICReg section 5.3).

    Word numbers int64 (n, L), negative for padding, to states (n, ``state_width``). Number ``words`` stands for every
    word that the vocabulary lacks.
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
