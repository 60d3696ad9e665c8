"""Training that starts from a solution in closed form: a linear map of each solved embedding, at first the identity.

The solution is the two-way kernel ridge regression whose settings ``studies/pairs.py choose`` wrote down for the
regime, from its own search; what is searched here is the training that follows. D width of the solved embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from pair_features import Division, Pairs
from pair_heads import Trainable, TrainingSettings, settings_of, train_on
from pair_methods import contrastive, finish, pairs_of, ridge, vicreg
from pair_scores import Embedder, score_model
from pair_solutions import SolvedHeads, solve_heads
from pair_spaces import START, TEMPERATURE, VICREG
from safetensors.torch import load_file
from torch import Tensor, nn

import mmvicreg as mm
from mmvicreg.errors import MissingFileError
from mmvicreg.files import write_tensors
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.space import Choice, Space, Uniform, Value
from mmvicreg.studies.study import Trial

SOLUTION = "two_way_kernel_ridge"
CHOICES = Path(__file__).parent / "recorded" / "pairs"
FAMILY = "closed form, then trained"
TRAINING: Space = {
    "learning_rate": Uniform(1e-6, 1e-2, log=True),
    "weight_decay": Uniform(1e-4, 1.0, log=True),
    "batch": Choice((128, 256, 512)),
    "steps": Choice((50, 100, 200)),
    "augment": Choice((True, False)),
}


class MappedSolution(Trainable):
    """A square linear map after each solved head."""

    def __init__(self, solved: Embedder, width: int, objective: mm.Objective) -> None:
        super().__init__()
        self.solved, self.objective = solved, objective
        self.image, self.text = (nn.Linear(width, width, bias=False) for _ in range(2))
        for head in (self.image, self.text):
            nn.init.eye_(head.weight)

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of images (N, D) and captions (Q, D) to be compared by cosine."""
        image, text = self.solved.embed(image_NE, text_QE)
        return self.image(image), self.text(text)


@dataclass(frozen=True)
class Started:
    """Heads trained by gradient from the solution."""

    objective: Callable[[Mapping[str, Value]], mm.Objective]
    """from all settings of a trial"""
    shared: ClassVar[Space] = TRAINING
    first: ClassVar[Mapping[str, Value]] = {
        **START,
        **{"learning_rate": 1e-4, "weight_decay": 1e-3, "batch": 512, "steps": 100},
    }
    """small steps, as fine-tuning takes them"""

    def train(self, trial: Trial) -> None:
        """Train, keep the maps, and score validation pairs."""
        division, model = self._start(trial)
        solved = replace(division, train=embedded_pairs(division.train, model.solved))
        settings = settings_of(TrainingSettings, trial.settings)
        train_on(
            solved.train,
            model,
            settings,
            score=lambda: score_model(model, division.validation, division.train).mean_recall,
            seed=trial.seed,
        )
        trial.out.mkdir(parents=True, exist_ok=True)
        write_tensors(trial.out / "maps.safetensors", _maps(model))
        finish(trial, model)

    def test(self, trial: Trial) -> dict[str, float]:
        """Scores of the kept maps on test pairs."""
        division, model = self._start(trial)
        for name, weight in load_file(trial.out / "maps.safetensors").items():
            getattr(model, name).weight.data.copy_(weight)
        return score_model(model, division.test, division.train).to_json()

    def _start(self, trial: Trial) -> tuple[Division, MappedSolution]:
        division, solved = _solution(trial.regime, trial.seed)
        width = solved.embed(division.train.image[:2, 0], division.train.text[:2, 0])[0].shape[1]
        return division, MappedSolution(solved, width, self.objective(trial.settings))


def _maps(model: MappedSolution) -> dict[str, Tensor]:
    return {name: getattr(model, name).weight.detach().contiguous() for name in ("image", "text")}


@lru_cache(maxsize=1)
def _solution(regime: str, seed: int) -> tuple[Division, SolvedHeads]:
    """The pairs of a regime, and the chosen solution on those that train."""
    choices = StudyFolder(CHOICES).read_choices()
    if f"{SOLUTION}/{regime}" not in choices:
        raise MissingFileError(
            f"{CHOICES} has no choice of {SOLUTION} for {regime}; search and choose that method first"
        )
    settings = choices[f"{SOLUTION}/{regime}"]["settings"]
    division = pairs_of(regime, seed)
    return division, solve_heads(division, settings, ridge(settings, "both"), kernel=True, seed=seed)


@torch.no_grad()
def embedded_pairs(pairs: Pairs, model: Embedder) -> Pairs:
    """Embeddings (N, V, D) of every crop and caption."""
    first = pairs.image[:, 0], pairs.text[:, 0]
    image = [model.embed(crop, first[1])[0] for crop in pairs.image.unbind(1)]
    text = [model.embed(first[0], caption)[1] for caption in pairs.text.unbind(1)]
    return replace(pairs, image=torch.stack(image, dim=1), text=torch.stack(text, dim=1))


WAYS: dict[str, tuple[str, Started, Space]] = {
    "vicreg_from_solution": (FAMILY, Started(vicreg), VICREG),
    "infonce_from_solution": (FAMILY, Started(contrastive), TEMPERATURE),
}
"""Family, how it is fitted, and what is tuned about it."""
