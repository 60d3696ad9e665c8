"""The ways to score two-branch embeddings, for every method alike, each with and without correction for hubs.

    python studies/pair_scorings.py                        # one division of 1,000 pairs, two seeds
    python studies/pair_scorings.py --seeds 1 --methods vicreg infonce

Every method is trained or solved with the settings that ``studies/pairs.py choose`` wrote down, and its embeddings are
compared by cosine, by the dot product of centred embeddings, by the cosine along axes weighted by their correlation
over the training pairs, and by the outputs of its predictors where it has some. Scores are of validation pairs: the
test pairs are not read. Finished runs are kept, and skipped when the command is given again. Written to
``studies/recorded/scorings-1000.json``, shown by ``studies/results.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from pair_features import Division, Pairs
from pair_methods import WAYS, Trained, joined, pairs_of
from pair_record import read_scores, write_scores
from pair_scores import Embedder, scores
from torch import Tensor

from mmvicreg.errors import show_messages_alone
from mmvicreg.evaluation.scoring.correlation import correlation_axes
from mmvicreg.progress import bar
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.study import Trial

RECORDED = Path(__file__).parent / "recorded"
COSINE, CENTRED, CORRELATED, PREDICTED = "cosine", "centred dot product", "correlated axes", "predictors"
"""Ways to score."""


@dataclass(frozen=True)
class Config:
    """Which methods, with how many seeds."""

    choices: Path = RECORDED / "pairs"
    """folder with choices.json"""
    regime: str = "pairs-1000-split-0"
    """training pairs and division"""
    methods: tuple[str, ...] = tuple(WAYS)
    """methods of the comparison"""
    seeds: int = 2
    """seeds 1, 2, ... of the training pairs and of the weights; not that of the search, which is 0"""
    out: Path = RECORDED / "scorings-1000.json"
    """file to write"""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of what is scored and of the training pairs, the evaluation crop and the name of each pair.

    ``image`` (N, D) and ``text`` (Q, D) are scored; ``train_image`` and ``bank`` are those of the training images and
    of their distinct captions.
    """

    image: Tensor
    text: Tensor
    train_image: Tensor
    bank: Tensor


@torch.no_grad()
def embedded(model: Embedder, pairs: Pairs, train: Pairs) -> Embedded:
    """Embeddings of ``pairs`` and of ``train``."""
    scored = model.embed(pairs.image[:, 0], pairs.distinct_captions()[0])
    return Embedded(*scored, *model.embed(train.image[:, 0], train.distinct_captions()[0]))


def centred_products(found: Embedded, train: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions and bank whose cosines order as the dot products of embeddings about the training means do.

    Two more dimensions, each zero on the other branch, make all rows of a branch equally long.
    """
    image = found.image - found.train_image.mean(0)
    text, bank = (each - found.bank.mean(0) for each in (found.text, found.bank))
    longest = torch.cat([text, bank]).square().sum(1).max()
    zero = torch.zeros_like
    image = torch.cat([image, _filling(image, image.square().sum(1).max()), zero(image[:, :1])], dim=1)
    text, bank = (
        torch.cat([each, zero(each[:, :1]), _filling(each, longest)], dim=1) for each in (text, bank)
    )
    return image, text, bank


def _filling(rows_ND: Tensor, longest: Tensor) -> Tensor:
    return (longest - rows_ND.square().sum(1, keepdim=True)).clamp(min=0).sqrt()


def correlated_axes(found: Embedded, train: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions and bank along axes weighted by their correlation over the training pairs."""
    _, positives = train.distinct_captions()
    axes = correlation_axes(found.train_image.numpy(), found.bank.numpy(), positives)
    image, text = axes.rows(found.image.numpy(), found.text.numpy())
    _, bank = axes.rows(found.image.numpy()[:1], found.bank.numpy())
    return torch.from_numpy(image), torch.from_numpy(text), torch.from_numpy(bank)


TRANSFORMS: Mapping[str, Callable[[Embedded, Pairs], tuple[Tensor, Tensor, Tensor]]] = {
    COSINE: lambda found, train: (found.image, found.text, found.bank),
    CENTRED: centred_products,
    CORRELATED: correlated_axes,
}


def score_by(way: str, model: Embedder, division: Division) -> dict[str, float]:
    """Mean recall of the validation pairs, without and with correction for hubs."""
    found = embedded(model, division.validation, division.train)
    image, text, bank = TRANSFORMS[way](found, division.train)
    result = scores(image, text, division.validation, bank)
    return {way: result.mean_recall, f"{way}, corrected": result.corrected}


def score_method(trial: Trial) -> dict[str, float]:
    """Every way to score the chosen settings of a method."""
    division, way = pairs_of(trial.regime, trial.seed), WAYS[trial.method][1]
    if not isinstance(way, Trained):
        return score_by(COSINE, way.fit(trial), division)
    members = way.fit(trial)
    found: dict[str, float] = {}
    if way.predict:
        plain = score_by(COSINE, joined(members), division)
        found |= {name.replace(COSINE, PREDICTED): value for name, value in plain.items()}
        for heads in members:
            heads.predict = False
    for name in TRANSFORMS:
        found |= score_by(name, joined(members), division)
    return found


def main(config: Config) -> None:
    """Train or solve, score, write after every run."""
    choices = StudyFolder(config.choices).read_choices()
    methods = [name for name in config.methods if name in WAYS and f"{name}/{config.regime}" in choices]
    kept = read_scores(config.out)
    with bar("scorings", len(methods) * config.seeds) as advance:
        for seed in range(1, config.seeds + 1):
            for name in methods:
                run = f"{config.regime}/{seed}"
                if run not in kept.get(name, {}):
                    settings = choices[f"{name}/{config.regime}"]["settings"]
                    trial = Trial(name, config.regime, settings, seed, Path())
                    kept.setdefault(name, {})[run] = score_method(trial)
                    write_scores(config.out, kept, f"python studies/pair_scorings.py --seeds {config.seeds}")
                advance(1, name)


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
