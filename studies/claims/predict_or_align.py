"""Prediction with a stop-gradient against direct alignment, beside SIGReg: the ablations of LeVLJEPA and X-JEPA.

    MMVICREG_PAIRS=features.npz python studies/claims/predict_or_align.py

Heads on the frozen features of 1,000 pairs (``studies/encode_pairs.py``), one division by concept. Scores are mean
recall of validation pairs; test pairs are not read. About two minutes of one core. N rows, D dimensions.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from pair_features import Division
from pair_heads import Heads, HeadSettings, train_heads
from pair_methods import START, pairs_of, prediction, regularized, settings_of
from pair_scores import scores

import mmvicreg as mm
from mmvicreg.evaluation.geometry import effective_rank
from mmvicreg.progress import bar

REGIME = "pairs-1000-split-0"
CHOSEN = {**START, "batch": 128, "width": 128, "hidden": 256, "steps": 200}
"""Settings of every run: heads of 128 dimensions, chosen small, so that a run takes seconds."""
SMALL = 0.1
"""Weight of the small InfoNCE term, beside a prediction error of weight 1."""
LEVLJEPA = "LeVLJEPA, ablation (arXiv 2607.00784), second-hand"
XJEPA = "X-JEPA (2026), matched pairs"
SETTING = "frozen features, 1,000 training pairs, mean recall of validation pairs"
CLAIMS = (
    Claim(
        "predictor_beats_symmetric",
        LEVLJEPA,
        "With SIGReg at the same small weight, predictors behind a stop-gradient align, and a symmetric MSE does not.",
        "zero-shot 25.2% against 1.8%",
        (
            Comparison("predictor outputs", ">=", "symmetric MSE", times=1.1),
            Comparison("predictor outputs", ">=", "symmetric MSE", times=5.0),
        ),
        f"{SETTING}; SIGReg 0.02, MSE 1",
    ),
    Claim(
        "predictor_has_higher_rank",
        LEVLJEPA,
        "Embeddings trained with predictors have a higher effective rank than those of a symmetric MSE.",
        "rank 477 against 170",
        (
            Comparison("rank with predictors", ">=", "rank of symmetric MSE", times=1.1),
            Comparison("rank with predictors", ">=", "rank of symmetric MSE", times=2.0),
        ),
        "embeddings of 128 dimensions; SIGReg 0.02",
    ),
    Claim(
        "scored_by_predictions",
        LEVLJEPA,
        "Models with predictors must be scored by predictor outputs: the raw cosine is at chance.",
        "none",
        (
            Comparison("raw cosine", "<=", "chance", times=2.0),
            Comparison("predictor outputs", ">=", "raw cosine", times=5.0),
        ),
        f"{SETTING}; SIGReg 0.02",
    ),
    Claim(
        "direct_mse_collapses",
        LEVLJEPA,
        "A direct MSE without SIGReg collapses.",
        "rank 3 of the image branch",
        (
            Comparison("rank without SIGReg", "<=", "rank of symmetric MSE", times=0.25),
            Comparison("recall without SIGReg", "<=", "chance", times=2.0),
        ),
        "SIGReg 0.02 against none",
    ),
    Claim(
        "prediction_needs_sigreg",
        LEVLJEPA,
        "Predictors and stop-gradient without SIGReg are unstable.",
        "none",
        (Comparison("prediction without SIGReg", "<=", "predictor outputs", times=0.5),),
        f"{SETTING}; SIGReg 0.02 against none, scored by predictor outputs",
    ),
    Claim(
        "pure_prediction_at_chance",
        XJEPA,
        "Pure latent prediction retrieves at chance by cosine; a small InfoNCE term makes it retrieve.",
        "mean recall 0.10 against 69.4",
        (
            Comparison("raw cosine", "<=", "chance", times=2.0),
            Comparison("with small InfoNCE", ">=", "raw cosine", times=5.0),
        ),
        f"{SETTING}; InfoNCE weight {SMALL}",
    ),
    Claim(
        "small_infonce_beats_infonce",
        XJEPA,
        "Latent prediction with a small InfoNCE term retrieves better than InfoNCE alone.",
        "69.4 against 67.9 (CLIP)",
        (Comparison("with small InfoNCE", ">=", "InfoNCE alone", times=1.0),),
        f"{SETTING}; same settings, temperature 0.07",
    ),
    Claim(
        "rank_is_not_alignment",
        f"{LEVLJEPA}; {XJEPA}",
        "A high effective rank does not mean that the branches are aligned.",
        "rank 170 at 1.8% zero-shot",
        (
            Comparison("rank with predictors", ">=", "rank with InfoNCE", times=0.8),
            Comparison("raw cosine", "<=", "InfoNCE alone", times=0.2),
        ),
        SETTING,
    ),
    Claim(
        "layer_norm_before_sigreg",
        LEVLJEPA,
        "SIGReg behind a LayerNorm stays far from the normal distribution; a projection in between mends it.",
        "none",
        (
            Comparison(
                "statistic behind LayerNorm", ">=", "statistic behind LayerNorm and projection", times=2.0
            ),
            Comparison("statistic behind LayerNorm and projection", "<=", plus=1.5),
        ),
        "free points, N=256, D=64, 300 steps; 1.06 is normal",
    ),
)
FIGURES = {
    "chance": "chance",
    "predictor outputs": "predicted/recall",
    "raw cosine": "predicted/cosine",
    "rank with predictors": "predicted/rank",
    "symmetric MSE": "symmetric/recall",
    "rank of symmetric MSE": "symmetric/rank",
    "rank without SIGReg": "mse/rank",
    "recall without SIGReg": "mse/recall",
    "prediction without SIGReg": "prediction/recall",
    "with small InfoNCE": "small infonce/cosine",
    "InfoNCE alone": "infonce/recall",
    "rank with InfoNCE": "infonce/rank",
}
"""Run and measure of each figure that a rule names."""


def objectives() -> dict[str, tuple[Callable[[], mm.Objective], bool]]:
    """Objective and whether it has predictors, by name of the run."""

    def gaussian() -> mm.SIGReg:
        return mm.SIGReg(0.02, slices=128)

    def small() -> mm.SumAlignment:
        return mm.SumAlignment(prediction(CHOSEN), mm.InfoNCE(SMALL, temperature=0.07))

    return {
        "symmetric": (lambda: regularized(mm.Invariance(1.0), gaussian), False),
        "predicted": (lambda: regularized(prediction(CHOSEN), gaussian), True),
        "mse": (lambda: mm.Objective(mm.Invariance(1.0)), False),
        "prediction": (lambda: mm.Objective(prediction(CHOSEN)), True),
        "infonce": (lambda: mm.Objective(mm.InfoNCE(temperature=0.07)), False),
        "small infonce": (lambda: regularized(small(), gaussian), False),
    }


@torch.no_grad()
def describe(heads: Heads, division: Division) -> dict[str, float]:
    """Recall by what the heads compare, by raw cosine, and the mean effective rank of both branches."""
    names, _ = division.validation.distinct_captions()
    found = {}
    predict = heads.predict
    for name, by_prediction in (("recall", predict), ("cosine", False)):
        heads.predict = by_prediction
        image, text = heads.embed(division.validation.image[:, 0], names)
        found[name] = scores(image, text, division.validation, text).mean_recall
    heads.predict = predict
    found["rank"] = (effective_rank(image) + effective_rank(text)) / 2
    return found


def chance(division: Division, seed: int) -> float:
    """Mean recall of random embeddings, mean of 20 draws."""
    generator = torch.Generator().manual_seed(seed)
    names, _ = division.validation.distinct_captions()
    found = []
    for _ in range(20):
        image, text = (
            torch.randn(rows, 64, generator=generator) for rows in (len(division.validation), len(names))
        )
        found.append(scores(image, text, division.validation, text).mean_recall)
    return sum(found) / len(found)


def layer_norm_statistics(seed: int, steps: int = 300) -> tuple[float, float]:
    """SIGReg of free points behind a LayerNorm, and behind a LayerNorm and a learnt projection, when trained on it."""
    found = []
    for project in (False, True):
        torch.manual_seed(seed)
        points, regularizer = torch.randn(256, 64).requires_grad_(), mm.SIGReg(slices=256)
        projection = torch.nn.Linear(64, 64, bias=False)

        def embed(
            points: Tensor = points, project: bool = project, layer: torch.nn.Linear = projection
        ) -> Tensor:
            z = layer_norm(points, (64,))
            return layer(z) if project else z

        optimizer = torch.optim.Adam([points, *projection.parameters()], lr=0.02)
        for step in range(steps):
            optimizer.zero_grad()
            regularizer.terms(embed(), seed=step)["sigreg"].backward()
            optimizer.step()
        fresh = mm.SIGReg(slices=2048).terms(embed().detach(), seed=10_000)
        found.append(float(fresh["sigreg"]))
    return found[0], found[1]


def train_all(config: Config) -> dict[str, list[float]]:
    """One value a seed of "run/figure", and of "chance"."""
    found: dict[str, list[float]] = defaultdict(list)
    runs = objectives()
    with bar("predict or align", len(runs) * config.seeds) as advance:
        for seed in config.numbers():
            division = pairs_of(REGIME, seed)
            found["chance"].append(chance(division, seed))
            for name, (objective, predict) in runs.items():
                heads = train_heads(
                    division, settings_of(HeadSettings, CHOSEN), objective(), predict=predict, seed=seed
                )
                for figure, value in describe(heads, division).items():
                    found[f"{name}/{figure}"].append(value)
                advance(1, name)
    return found


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` of the LayerNorm alone, which needs no features."""
    direct, projected = zip(*(layer_norm_statistics(seed) for seed in config.numbers()), strict=True)
    found: dict[str, Figures] = {
        "layer_norm_before_sigreg": {
            "statistic behind LayerNorm": direct,
            "statistic behind LayerNorm and projection": projected,
        }
    }
    return found if config.tiny else found | by_claim(train_all(config))


def by_claim(runs: Mapping[str, list[float]]) -> dict[str, Figures]:
    """The figures of the trained heads that the rule of each claim names."""
    figures = {name: runs[run] for name, run in FIGURES.items()}
    return {claim.name: claim.named(figures) for claim in CLAIMS if figures.keys() >= set(claim.names())}


if __name__ == "__main__":
    main(__file__, CLAIMS, measure)
