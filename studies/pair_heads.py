"""Heads trained by gradient on frozen features: one loop for every objective of the study.

n pairs of a batch, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from pair_features import Division, Pairs, map_image, mapped
from pair_scores import score_model
from torch import Tensor, nn
from torch.nn.functional import normalize

import mmvicreg as mm
from mmvicreg.errors import InvalidValueError
from mmvicreg.randomness import generator
from mmvicreg.studies.space import Value

CHECKS = 4
"""How often the validation pairs are scored in training; the best of these heads is kept, for every method alike."""
WARMUP = 0.1
"""Fraction of the steps in which the learning rate rises; it then falls as a cosine."""


@dataclass(frozen=True)
class TrainingSettings:
    """How heads are trained."""

    learning_rate: float
    weight_decay: float
    batch: int
    steps: int
    augment: bool
    """draw augmented crops and captions at random; False takes the evaluation crop and the name"""


@dataclass(frozen=True)
class HeadSettings(TrainingSettings):
    """What is tuned alike for every objective."""

    width: int
    hidden: int
    """width of the hidden layer; 0 is a linear head"""
    image_map: str
    """root (signed square root, then unit length) or unit"""

    def sizes(self) -> tuple[int, ...]:
        """Widths of the layers of a head."""
        return (self.hidden, self.width) if self.hidden else (self.width,)


Tuned = TypeVar("Tuned", bound=TrainingSettings)


def settings_of(kind: type[Tuned], settings: Mapping[str, Value]) -> Tuned:
    """Those of all settings that ``kind`` has."""
    return kind(**{each.name: settings[each.name] for each in fields(kind)})  # type: ignore[arg-type]


class Trainable(nn.Module):
    """Two heads and an objective."""

    image: nn.Module
    text: nn.Module
    objective: mm.Objective


class Heads(Trainable):
    """Two heads and an objective. ``score_with_predictions``: embeddings for which a dot product is the sum of the
    cosines of both predictions, as a run with :class:`mmvicreg.Prediction` is scored."""

    def __init__(
        self, widths: tuple[int, int], settings: HeadSettings, objective: mm.Objective, predict: bool
    ) -> None:
        super().__init__()
        self.image, self.text = (mm.projector(width, settings.sizes()) for width in widths)
        self.objective = objective
        self.image_map, self.predict = settings.image_map, predict

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of images (N, D) and captions (Q, D) to be compared by cosine."""
        a, b = self.image(map_image(image_NE, self.image_map)), self.text(normalize(text_QE, dim=-1))
        return with_predictions(self.objective, a, b) if self.predict else (a, b)


def with_predictions(objective: mm.Objective, a_ND: Tensor, b_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (N, 2 D) whose dot product is the sum of the cosines of both predictions of ``objective``."""
    prediction = objective.shared
    assert isinstance(prediction, mm.Prediction | mm.SumAlignment)
    part = prediction if isinstance(prediction, mm.Prediction) else prediction.parts[0]
    assert isinstance(part, mm.Prediction)
    of_b, of_a = part.predict(a_ND, b_ND)
    unit = [normalize(each, dim=1) for each in (of_b, a_ND, b_ND, of_a)]
    return torch.cat(unit[:2], dim=1), torch.cat(unit[2:], dim=1)


def train_heads(
    division: Division,
    settings: HeadSettings,
    objective: mm.Objective,
    *,
    predict: bool = False,
    identities: bool = False,
    seed: int,
) -> Heads:
    """The heads that scored best on validation pairs.

    ``identities`` tells a contrastive objective which pairs have the same caption. Raises InvalidValueError where the
    loss is not finite.
    """
    seed_weights(seed)
    heads = make_heads(division, settings, objective, predict=predict)

    def score() -> float:
        return score_model(heads, division.validation, division.train).mean_recall

    train = mapped(division.train, settings.image_map)
    train_on(train, heads, settings, score=score, identities=identities, seed=seed)
    return heads


def seed_weights(seed: int) -> None:
    """Make the random weights of heads that follow those of ``seed``."""
    torch.manual_seed(int(generator("heads", seed).integers(2**31)))


def warmup_cosine(step: int, steps: int) -> float:
    """The learning rate of a step, as a fraction of its largest: it rises, then falls as a cosine."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


def train_on(
    train: Pairs,
    heads: Trainable,
    settings: TrainingSettings,
    *,
    score: Callable[[], float],
    identities: bool = False,
    schedule: Callable[[int, int], float] = warmup_cosine,
    seed: int,
) -> None:
    """Train ``heads`` on features; leave the weights of the best ``score`` in evaluation mode."""
    optimizer = _optimizer(heads, settings)
    random = generator("batches", seed)
    best, kept = -1.0, heads.state_dict()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps)
        image, text, same = _batch(train, settings, random)
        optimizer.zero_grad()
        z = {"image": heads.image(image), "text": heads.text(text)}
        terms = heads.objective(
            z, seed=step, identities={"image": same, "text": same} if identities else None
        )
        if not torch.isfinite(terms.total):
            raise InvalidValueError(f"the loss is {terms.total.item()} at step {step} of {settings}")
        terms.total.backward()
        optimizer.step()
        if (step + 1) % max(1, settings.steps // CHECKS) == 0:
            heads.eval()
            found = score()
            heads.train()
            if found > best:
                best = found
                kept = {name: value.clone() for name, value in heads.state_dict().items()}
    heads.load_state_dict(kept)
    heads.eval()


def make_heads(
    division: Division, settings: HeadSettings, objective: mm.Objective, *, predict: bool
) -> Heads:
    """Heads with random weights for the features of ``division``."""
    widths = (division.train.image.shape[-1], division.train.text.shape[-1])
    return Heads(widths, settings, objective, predict)


def _optimizer(heads: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    matrices = [p for p in heads.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in heads.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _batch(
    train: Pairs, settings: TrainingSettings, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.from_numpy(random.permutation(len(train))[: settings.batch])
    if not settings.augment:
        return train.image[rows, 0], train.text[rows, 0], train.identities[rows]
    crop = torch.from_numpy(random.integers(train.image.shape[1], size=len(rows)))
    caption = torch.from_numpy(random.random(len(rows))).mul(train.captions[rows]).long()
    return train.image[rows, crop], train.text[rows, caption], train.identities[rows]
