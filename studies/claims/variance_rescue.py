"""BYOL and SimSiam with VICReg's variance and covariance terms, and SimSiam without normalization or predictor.

    python studies/claims/variance_rescue.py            # some four minutes of one core; continues if interrupted
    python studies/claims/variance_rescue.py --tiny     # seconds; its scores mean nothing

The terms weigh 1 and 0.01, as in the paper, beside 1 - cosine, and act on the projector's embeddings. "No BN" removes
batch normalization from projector and predictor; the encoder keeps its own. One learning
rate for all. Runs are kept in runs/claims; delete them to train again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from image_methods import MOMENTUM, WIDE, prediction
from image_protocol import (
    EMBEDDING,
    REPRESENTATION,
    SETTING,
    TINY,
    Method,
    Schedule,
    encoder,
    run_method,
    run_untrained,
)
from image_runs import Runs, runs_of

import mmvicreg as mm

TERMS: Mapping[str, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "variance": (1.0, 0.0),
    "variance and covariance": (1.0, 0.01),
}
FAMILIES = ("BYOL", "SimSiam", "SimSiam, no BN", "SimSiam, no predictor, no BN")
SOURCE = "VICReg, Table 4 (arXiv 2105.04906)"
BARE = FAMILIES[3]


def _kept(family: str) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(f"{family}: {terms}", ">=", f"{family}: none", plus=-2.0) for terms in list(TERMS)[1:]
    )


CLAIMS = (
    Claim(
        "byol_keeps_its_level",
        SOURCE,
        "The variance term, with or without covariance, does not hurt BYOL.",
        "69.3 alone, 70.2 variance, 69.5 variance and covariance",
        _kept("BYOL"),
        SETTING,
    ),
    Claim(
        "simsiam_keeps_its_level",
        SOURCE,
        "The variance term, with or without covariance, does not hurt SimSiam.",
        "67.9, 68.1, 67.6",
        _kept("SimSiam"),
        SETTING,
    ),
    Claim(
        "without_batch_norm",
        SOURCE,
        "SimSiam without batch normalization is bad, and the variance term rescues it.",
        "35.1, 67.3, 67.1",
        (
            Comparison("SimSiam, no BN: none", "<=", "SimSiam: none", plus=-5.0),
            Comparison("SimSiam, no BN: variance", ">=", "SimSiam, no BN: none", plus=5.0),
            Comparison("SimSiam, no BN: variance and covariance", ">=", "SimSiam, no BN: none", plus=5.0),
        ),
        SETTING,
    ),
    Claim(
        "bare_collapse",
        SOURCE,
        "SimSiam without predictor and batch normalization collapses.",
        "collapse",
        (
            Comparison(f"spread of {BARE}: none", "<=", plus=0.1),
            Comparison(f"{BARE}: none", "<=", "random", plus=5.0),
        ),
        "spread: mean standard deviation of l2-normalized embeddings times √D; " + SETTING,
    ),
    Claim(
        "bare_rescue",
        SOURCE,
        "The variance term rescues SimSiam without predictor and batch normalization.",
        "collapse, 56.8, 66.1",
        (
            Comparison(f"{BARE}: variance", ">=", f"{BARE}: none", plus=5.0),
            Comparison(f"{BARE}: variance and covariance", ">=", f"{BARE}: none", plus=5.0),
        ),
        SETTING,
    ),
    Claim(
        "bare_needs_covariance",
        SOURCE,
        "There the covariance term adds what the variance term leaves.",
        "56.8 to 66.1",
        (
            Comparison(f"{BARE}: variance and covariance", ">=", f"{BARE}: variance", plus=2.0),
            Comparison(f"{BARE}: variance and covariance", ">=", f"{BARE}: variance"),
        ),
        SETTING,
    ),
)


def plain(inputs: int, *widths: int) -> nn.Sequential:
    """A perceptron without batch normalization; the last map has no bias."""
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, widths[-1], bias=False))


def branches(family: str) -> dict[str, mm.Branch]:
    """The branch of both views."""
    if not family.endswith("no BN"):
        return WIDE()
    return {"image": mm.Branch(encoder(), plain(REPRESENTATION, EMBEDDING, EMBEDDING))}


def objective(family: str, variance: float, covariance: float) -> mm.Objective:
    """The alignment of the family and the terms."""
    alignment = prediction(MOMENTUM if family == "BYOL" else None)
    if family == BARE:
        alignment.from_a = alignment.from_b = nn.Identity()
    elif family.endswith("no BN"):
        alignment.from_a = alignment.from_b = plain(EMBEDDING, 64, EMBEDDING)
    regularizers = {"image": mm.VICReg(variance, covariance)} if variance else {}
    return mm.Objective(alignment, regularizers)


def train_all(runs: Runs, base: Schedule, config: Config) -> None:
    """Every family with every choice of terms and seed."""
    jobs: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for seed in config.numbers():
        jobs["random", seed] = partial(run_untrained, WIDE, base, seed)
        for family in FAMILIES:
            for name, weights in TERMS.items():
                method = Method(partial(branches, family), partial(objective, family, *weights))
                jobs[f"{family}: {name}", seed] = partial(run_method, method, base, seed)
    runs.run(jobs)


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` after two epochs of 64 pictures."""
    runs = runs_of(__file__, config)
    train_all(runs, TINY if config.tiny else Schedule(), config)
    names = ["random", *(f"{family}: {name}" for family in FAMILIES for name in TERMS)]
    figures = {name: runs.values(name) for name in names}
    figures |= {f"spread of {name}": runs.values(name, "std") for name in names}
    return {claim.name: claim.named(figures) for claim in CLAIMS}


if __name__ == "__main__":
    main(__file__, CLAIMS, measure, spent=lambda config: runs_of(__file__, config).seconds())
