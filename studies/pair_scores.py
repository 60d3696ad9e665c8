"""How every method of the study is scored: mean recall of image-text retrieval among unseen concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from pair_features import Pairs
from torch import Tensor
from torch.nn.functional import normalize

from mmvicreg.evaluation.retrieval import cross_modal_metrics

QUERIES = 2000
"""Captions of the bank from which the hubness correction is estimated."""
SHARPNESS = 30.0
"""Inverse temperature of the inverted softmax."""


@dataclass(frozen=True)
class Scores:
    """Fractions. ``mean_recall``: mean of recall at 1, 5 and 10 both ways; ``corrected``: with hubness corrected by an
    inverted softmax over training captions (arXiv 1702.03859), for images from text only, other ranks unchanged."""

    mean_recall: float
    image_to_text_recall_at_1: float
    text_to_image_recall_at_1: float
    corrected: float

    def to_json(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


class Embedder(Protocol):
    """What aligns the two towers: representations in, embeddings that are compared by cosine out."""

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of images (N, D) and captions (Q, D)."""


@dataclass(frozen=True)
class Ensemble:
    """Several models; the score is the sum of their cosines."""

    members: Sequence[Embedder]

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of all members side by side."""
        found = [member.embed(image_NE, text_QE) for member in self.members]
        image, text = ([normalize(each, dim=1) for each in side] for side in zip(*found, strict=True))
        return torch.cat(image, dim=1), torch.cat(text, dim=1)


@torch.no_grad()
def score_model(model: Embedder, pairs: Pairs, train: Pairs) -> Scores:
    """Scores on ``pairs``; the captions of ``train`` are the bank of the hubness correction."""
    names, _ = pairs.distinct_captions()
    bank = train.distinct_captions()[0][:QUERIES]  # encoders need time, and no more of them are used
    image, text = model.embed(pairs.image[:, 0], names)
    # Predictions need both sides, so the bank is embedded beside as many images; there are at least as many.
    _, captions = model.embed(train.image[: len(bank), 0], bank)
    return scores(image, text, pairs, captions)


def scores(image_ND: Tensor, text_QD: Tensor, pairs: Pairs, bank_BD: Tensor) -> Scores:
    """Scores of embeddings of the images of ``pairs`` and of its distinct captions; ``bank_BD``: training captions."""
    image, text = normalize(image_ND, dim=1), normalize(text_QD, dim=1)
    _, positives = pairs.distinct_captions()
    there, back = cross_modal_metrics(image, text, positives)
    recalls = [value for side in (there, back) for value in side.recall.values()]
    return Scores(
        sum(recalls) / len(recalls), there.recall[1], back.recall[1], _corrected(image, text, pairs, bank_BD)
    )


def _corrected(image_ND: Tensor, text_QD: Tensor, pairs: Pairs, bank_BD: Tensor) -> float:
    """Mean recall where an image that many captions retrieve is demoted: score - log mean exp over the bank.

    The same bank of training captions for every method; images found from text are re-ranked, and texts found from
    images are ranked as before, because every candidate of one image has the same demotion.
    """
    bank = normalize(bank_BD[:QUERIES], dim=1)
    popularity = torch.logsumexp(SHARPNESS * image_ND @ bank.T, dim=1) / SHARPNESS
    # One more dimension adds -popularity to every score of the image, another makes all images equally long.
    filling = (popularity.square().max() - popularity.square()).clamp(min=0).sqrt()
    image = torch.cat([image_ND, -popularity[:, None], filling[:, None]], dim=1)
    text = torch.cat([text_QD, torch.ones(len(text_QD), 1), torch.zeros(len(text_QD), 1)], dim=1)
    _, positives = pairs.distinct_captions()
    there, back = cross_modal_metrics(image, text, positives)
    recalls = [value for side in (there, back) for value in side.recall.values()]
    return sum(recalls) / len(recalls)
