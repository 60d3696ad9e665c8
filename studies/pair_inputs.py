"""What heads may be given in place of the features, and statistics over several batches: parts of ``pair_gap.py``.

n pairs of a batch, D width of the embeddings, E width of a representation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from pair_features import Division, Pairs
from pair_heads import HeadSettings, Trainable, seed_weights
from pair_scores import Embedder
from pair_solutions import SolvedHeads, problem_of
from pair_starts import embedded_pairs
from torch import Tensor, nn

import mmvicreg as mm
from mmvicreg.solvers.selection import moments_of, spaces_of
from mmvicreg.solvers.solution import LinearPart, Solution
from mmvicreg.solvers.statistics.pairing import Space
from mmvicreg.solvers.whitening import whitening_matrix
from mmvicreg.studies.space import Value


@dataclass(frozen=True)
class FeatureMaps:
    """The fitted feature map of each branch."""

    spaces: Mapping[str, Space]

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Features of images and captions."""
        return self.spaces["image"].features(image_NE), self.spaces["text"].features(text_QE)


@dataclass(frozen=True)
class Scaled:
    """Embeddings times one number a branch, which no cosine depends on."""

    model: Embedder
    image: float
    text: float

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled embeddings of images and captions."""
        image, text = self.model.embed(image_NE, text_QE)
        return self.image * image, self.text * text


class MappedHeads(Trainable):
    """Heads behind fixed inputs."""

    def __init__(self, inputs: Embedder, heads: tuple[nn.Module, nn.Module], objective: mm.Objective) -> None:
        super().__init__()
        self.inputs, self.objective = inputs, objective
        self.image, self.text = heads

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of images (N, D) and captions (Q, D) to be compared by cosine."""
        image, text = self.inputs.embed(image_NE, text_QE)
        return self.image(image), self.text(text)


def mapped_heads(
    inputs: Embedder, train: Pairs, settings: HeadSettings, objective: mm.Objective, seed: int
) -> MappedHeads:
    """Heads with random weights behind ``inputs``; ``train``: pairs as the heads read them."""
    seed_weights(seed)
    image, text = (mm.projector(each.shape[-1], settings.sizes()) for each in (train.image, train.text))
    return MappedHeads(inputs, (image, text), objective)


def kernel_features(division: Division, settings: Mapping[str, Value], seed: int) -> FeatureMaps:
    """The Nyström features that the chosen kernel solution with ``settings`` reads."""
    problem = problem_of(division, settings, kernel=True, seed=seed)
    with torch.no_grad():
        return FeatureMaps(spaces_of(problem, mm.CCA()))


def whitened_features(
    division: Division, settings: Mapping[str, Value], seed: int, *, kernel: bool = False
) -> SolvedHeads:
    """Each branch, or its Nyström features, whitened on its training rows with the ridge of
    :class:`mmvicreg.Whitening`."""
    problem = problem_of(division, {**settings, "concept_power": 0.0}, kernel=kernel, seed=seed)
    with torch.no_grad():
        spaces = spaces_of(problem, mm.CCA())
        moments = moments_of(problem, mm.CCA(), spaces)
        parts = {
            name: (LinearPart(name, space.mean, whitening_matrix(name, space, mm.Whitening())),)
            for name, space in moments.spaces.items()
        }
    return SolvedHeads(spaces, Solution(parts, torch.zeros(0)))


def scaled_to_one(model: Embedder, train: Pairs) -> Scaled:
    """``model`` with dimensions whose variance over the training pairs has the mean 1, as VICReg's variance term asks
    for."""
    found = embedded_pairs(replace(train, image=train.image[:, :1], text=train.text[:, :1]), model)
    image, text = (float(each[:, 0].var(dim=0).mean().rsqrt()) for each in (found.image, found.text))
    return Scaled(model, image, text)


class RunningVICReg(mm.Regularizer):
    """VICReg whose covariance is a moving average over batches; the gradient is that of the newest batch."""

    def __init__(self, variance: float, covariance: float, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.variance, self.covariance, self.momentum = variance, covariance, momentum
        self._past: Tensor | None = None

    def weights(self) -> dict[str, float]:
        return {"variance": self.variance, "covariance": self.covariance}

    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        own = torch.cov(z_nD.T)
        past = own.detach() if self._past is None else self._past
        self._past = self.momentum * past + (1 - self.momentum) * own.detach()
        mixed = self._past + own - own.detach()
        deviation = (mixed.diagonal() + 1e-4).sqrt()
        energy = mixed.square().sum() - mixed.diagonal().square().sum()
        return {"variance": (1 - deviation).clamp(min=0).mean(), "covariance": energy / len(mixed)}
