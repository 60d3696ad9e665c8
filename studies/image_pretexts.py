"""Pretext tasks that the package has no part for, each in its smallest honest form.

PIRL (Misra, van der Maaten, arXiv 1912.01991): a picture and its shuffled patches, against a memory bank.
CPC v2 (Henaff et al., arXiv 1905.09272): patches predict the patches further down, among all patches of the batch.
CMC (Tian, Krishnan, Isola, arXiv 1906.05849): luminance and chrominance through encoders of their own.

B pictures, P patches of a picture, E width of a representation, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from image_data import SIDE, STANDARD
from torch import Tensor, nn

import mmvicreg as mm

PIECE = 4
"""pixels of a side of a jigsaw piece"""
PATCH, STRIDE, GRID = 4, 2, 3
"""CPC: pixels of a patch, pixels between patches (half of them overlap), patches of a side"""


def pieces(x_BCSS: Tensor, size: int, stride: int) -> Tensor:
    """(B, C, S, S) to (B, P, C, size, size), row by row."""
    count, channels = x_BCSS.shape[:2]
    columns = F.unfold(x_BCSS, size, stride=stride)
    return columns.transpose(1, 2).reshape(count, -1, channels, size, size)


class PieceEncoder(nn.Module):
    """Pieces (B, P, C, s, s), each by ``encoder``, to all their representations in a row (B, P E)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x_BPCSS: Tensor) -> Tensor:
        h = self.encoder(x_BPCSS.flatten(0, 1))
        return h.reshape(len(x_BPCSS), -1)


def jigsaw(x: Tensor) -> dict[str, Tensor]:
    """A view of each picture, and the shuffled pieces of another view."""
    cut = pieces(STANDARD(x), PIECE, PIECE)
    order = torch.rand(cut.shape[:2]).argsort(1)
    shuffled = cut.gather(1, order[:, :, None, None, None].expand_as(cut))
    return {"picture": STANDARD(x), "jigsaw": shuffled}


def jigsaw_pieces() -> int:
    """How many pieces a picture has."""
    return (SIDE // PIECE) ** 2


class MemoryBank(mm.Alignment):
    """PIRL's loss: 1/2 [CE(m_I'v_pieces) + CE(m_I'v_picture)] over all pictures of the bank, m_I the picture's entry.

    Identities are the numbers of the pictures. Entries follow the picture's embedding: m <- (m + v) / 2, unit norm.
    """

    bank: Tensor

    def __init__(self, *, width: int, pictures: int, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("bank", F.normalize(torch.randn(pictures, width), dim=1))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def weights(self) -> dict[str, float]:
        return {"memory_bank": 1.0}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: mm.PairContext) -> dict[str, Tensor]:
        assert context.identities is not None, "the numbers of the pictures"
        rows = context.identities[0]
        views = [F.normalize(x, dim=1) for x in (a_nD, b_nD)]
        losses = [F.cross_entropy(x @ self.bank.T / self.temperature, rows) for x in views]
        self._seen.append((rows, views[0].detach()))
        return {"memory_bank": (losses[0] + losses[1]) / 2}

    def end_step(self) -> None:
        for rows, views in self._seen:  # a new tensor, because backward needs the old one
            entries = F.normalize((self.bank[rows] + views) / 2, dim=1)
            self.bank = self.bank.index_copy(0, rows, entries)
        self._seen.clear()


class Context(nn.Module):
    """Patches' representations (B, 9, E) to predictions and what they predict, (9 B, D) each.

    A recurrent network reads each column of patches downwards; from what it has read, a linear map for each distance
    predicts the patches one and two rows below. (The paper: a masked convolution on a 7x7 grid.)
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.reader = nn.GRU(width, embedding, batch_first=True)
        self.steps = nn.ModuleList(nn.Linear(embedding, embedding) for _ in range(GRID - 1))
        self.target = nn.Linear(width, embedding)

    def forward(self, h_BPE: Tensor) -> tuple[Tensor, Tensor]:
        columns = h_BPE.unflatten(1, (GRID, GRID)).transpose(1, 2).flatten(0, 1)
        context, _ = self.reader(columns)
        goal = self.target(columns)
        predicted, targets = [], []
        for distance, step in enumerate(self.steps, start=1):
            predicted.append(step(context[:, :-distance]).flatten(0, 1))
            targets.append(goal[:, distance:].flatten(0, 1))
        return torch.cat(predicted), torch.cat(targets)


def represent_patches(model: mm.Model, x_BCSS: Tensor) -> Tensor:
    """The mean of the representations of a picture's patches, (B, E), as CPC v2 is probed."""
    cut = pieces(x_BCSS, PATCH, STRIDE)
    return model.branch_named("patch").encoder(cut.flatten(0, 1)).unflatten(0, cut.shape[:2]).mean(1)


def embed_patches(model: mm.Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Predictions and targets, rows of patches."""
    patch, x = model.branch_named("patch"), inputs["target"]
    h = patch.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    predicted, target = patch.projector(h)
    return {"predicted": predicted, "target": target}


def patches(x: Tensor) -> dict[str, Tensor]:
    """The patches of a view of each picture."""
    return {"target": pieces(STANDARD(x), PATCH, STRIDE)}


def split_colours(x: Tensor) -> dict[str, Tensor]:
    """Luminance (B, 1, S, S) and two differences of colour (B, 2, S, S)."""
    luminance = x.mean(1, keepdim=True)
    return {"luminance": luminance, "chrominance": x[:, ::2] - luminance}


def represent_colours(model: mm.Model, x: Tensor) -> Tensor:
    """Both encoders' representations side by side, as CMC is probed."""
    return torch.cat([model.branch(view).encoder(part) for view, part in split_colours(x).items()], 1)
