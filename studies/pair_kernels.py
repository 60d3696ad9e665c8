"""Trained heads on whitened kernel features: the feature map of the closed forms, offered to heads trained by gradient.

The Nyström features of a Gaussian kernel of each branch, whitened on the training pairs, take the place of the frozen
features; the rest is as in ``pair_methods.py``, and the kernels are tuned with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pair_features import Division, Pairs
from pair_heads import train_on
from pair_inputs import MappedHeads, mapped_heads, whitened_features
from pair_methods import (
    CONTRASTIVE,
    REGULARIZED,
    WAYS,
    Trained,
    finish,
    head_settings,
    joined,
    keep,
    pairs_of,
)
from pair_scores import Embedder, score_model
from pair_spaces import HEADS, KERNELS, START, Settings
from pair_starts import embedded_pairs
from safetensors.torch import load_file

import mmvicreg as mm
from mmvicreg.studies.space import Space
from mmvicreg.studies.study import Trial


@dataclass(frozen=True)
class TrainedOnKernels:
    """Heads trained by gradient on whitened kernel features."""

    objective: Callable[[Settings], mm.Objective]
    """from all settings of a trial"""
    members: int = 1
    """models trained with different seeds on the same features, whose cosines are added"""
    shared: ClassVar[Space] = {**HEADS, **KERNELS}
    first: ClassVar[Settings] = {**START, "hidden": 0}
    """linear heads, since the kernel is the hidden layer"""

    def train(self, trial: Trial) -> None:
        """Train, keep the heads, and score validation pairs."""
        division, inputs, train = _inputs(trial)
        found = []
        for member in range(self.members):
            seed = 1000 * trial.seed + member
            model = self._heads(trial, inputs, train, seed)

            def score(model: MappedHeads = model) -> float:
                return score_model(model, division.validation, division.train).mean_recall

            train_on(train, model, head_settings(trial), score=score, seed=seed)
            keep(model, trial, f"heads-{member}")
            found.append(model)
        finish(trial, joined(found))

    def test(self, trial: Trial) -> dict[str, float]:
        """Scores of the kept heads on test pairs."""
        division, inputs, train = _inputs(trial)
        found = []
        for member in range(self.members):
            heads = self._heads(trial, inputs, train, member)
            heads.load_state_dict(load_file(trial.out / f"heads-{member}.safetensors"))
            found.append(heads.eval())
        return score_model(joined(found), division.test, division.train).to_json()

    def _heads(self, trial: Trial, inputs: Embedder, train: Pairs, seed: int) -> MappedHeads:
        return mapped_heads(inputs, train, head_settings(trial), self.objective(trial.settings), seed)


def _inputs(trial: Trial) -> tuple[Division, Embedder, Pairs]:
    """The pairs, the feature map of each branch, and the training pairs behind it."""
    division = pairs_of(trial.regime, trial.seed)
    inputs = whitened_features(division, trial.settings, trial.seed, kernel=True)
    return division, inputs, embedded_pairs(division.train, inputs)


def ways() -> dict[str, tuple[str, TrainedOnKernels, Space]]:
    """Family, how it is fitted, and what is tuned about it alone."""
    found: dict[str, tuple[str, TrainedOnKernels, Space]] = {}
    for name in ("infonce", "infonce_two_models", "siglip", "vicreg", "sigreg", "vicreg+infonce"):
        family, way, space = WAYS[name]
        assert isinstance(way, Trained) and family in (CONTRASTIVE, REGULARIZED)
        found[f"{name}_on_kernels"] = (family, TrainedOnKernels(way.objective, way.members), space)
    return found


WAYS_ON_KERNELS = ways()
