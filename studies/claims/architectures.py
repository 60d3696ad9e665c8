"""Shared, unshared and asymmetric encoders for VICReg, Barlow Twins, SimCLR and BYOL.

    python studies/claims/architectures.py            # some four minutes of one core; continues if interrupted
    python studies/claims/architectures.py --tiny     # seconds; its scores mean nothing

The probe sees the first view's encoder: the convolutions, whatever encodes the second view. Unshared: convolutions
with weights of their own; asymmetric: a multilayer perceptron on the pixels, in place of the paper's transformer. BYOL
predicts the moving average of each view's own branch. One learning rate for all. Runs are kept in runs/claims;
delete them to train again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from image_data import SIDE
from image_methods import MOMENTUM, NARROW, WIDE, info_nce, prediction
from image_protocol import (
    EMBEDDING,
    REPRESENTATION,
    SETTING,
    TINY,
    Method,
    Schedule,
    branch,
    run_method,
    run_untrained,
)
from image_runs import Runs, runs_of

import mmvicreg as mm

ARCHITECTURES = ("shared", "unshared", "asymmetric")
SOURCE = "VICReg, Table 5 (arXiv 2105.04906)"
PAPER = "shared, unshared, with ViT-S: VICReg 68.6, 66.5, 66.2; Barlow Twins 68.7, 64.2, 63.9; SimCLR 64.4, 63.1, 63.5"
EMBEDDINGS = {"VICReg": EMBEDDING, "Barlow Twins": EMBEDDING, "SimCLR": NARROW, "BYOL": EMBEDDING}

CLAIMS = (
    Claim(
        "unshared_costs_little",
        SOURCE,
        "VICReg works without shared weights and loses about two points, with another kind of encoder about as many.",
        PAPER,
        (
            Comparison("VICReg loses, unshared", "<=", plus=4.0),
            Comparison("VICReg loses, asymmetric", "<=", plus=4.0),
        ),
        SETTING,
    ),
    Claim(
        "loses_less_than_barlow",
        SOURCE,
        "Without shared weights VICReg loses less than Barlow Twins.",
        PAPER,
        (
            Comparison("VICReg loses, unshared", "<=", "Barlow Twins loses, unshared"),
            Comparison("VICReg loses, asymmetric", "<=", "Barlow Twins loses, asymmetric"),
        ),
        SETTING,
    ),
    Claim(
        "best_when_unshared",
        SOURCE,
        "With unshared and asymmetric encoders VICReg is the best of the three.",
        PAPER,
        (
            Comparison("VICReg unshared", ">=", "Barlow Twins unshared"),
            Comparison("VICReg unshared", ">=", "SimCLR unshared"),
            Comparison("VICReg asymmetric", ">=", "Barlow Twins asymmetric"),
            Comparison("VICReg asymmetric", ">=", "SimCLR asymmetric"),
        ),
        SETTING,
    ),
    Claim(
        "simclr_hardly_loses",
        SOURCE,
        "SimCLR loses the least without shared weights.",
        PAPER,
        (
            Comparison("SimCLR loses, unshared", "<=", "VICReg loses, unshared"),
            Comparison("SimCLR loses, unshared", "<=", "Barlow Twins loses, unshared"),
        ),
        SETTING,
    ),
    Claim(
        "byol_needs_sharing",
        SOURCE,
        "BYOL works with shared encoders alone.",
        "69.3 shared; no figure for the others",
        (
            Comparison("BYOL shared", ">=", "random", plus=5.0),
            Comparison("BYOL unshared", "<=", "random", plus=5.0),
            Comparison("BYOL asymmetric", "<=", "random", plus=5.0),
        ),
        "moving averages of each view's own branch, which the paper did not try; " + SETTING,
    ),
)


def perceptron(width: int) -> mm.Branch:
    """Pixels (B, 3, 8, 8) to embeddings (B, width)."""
    first, second = 3 * SIDE**2, 128
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((first, second), (second, REPRESENTATION)):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return mm.Branch(nn.Sequential(*layers), mm.projector(REPRESENTATION, (EMBEDDING, width)))


def branches(architecture: str, width: int) -> Callable[[], dict[str, mm.Branch]]:
    """One branch, or one for each view."""
    if architecture == "shared":
        return lambda: {"first": branch((EMBEDDING, width))}
    second = perceptron if architecture == "asymmetric" else lambda width: branch((EMBEDDING, width))
    return lambda: {"first": branch((EMBEDDING, width)), "second": second(width)}


def objective(name: str, architecture: str) -> Callable[[], mm.Objective]:
    """Regularizers for each branch there is."""
    names = ("first",) if architecture == "shared" else ("first", "second")
    found: Mapping[str, Callable[[], mm.Objective]] = {
        "VICReg": lambda: mm.Objective(mm.Invariance(25.0), {each: mm.VICReg() for each in names}),
        "Barlow Twins": lambda: mm.Objective(mm.BarlowTwins()),
        "SimCLR": info_nce,
        "BYOL": lambda: mm.Objective(prediction(MOMENTUM, shared=architecture == "shared")),
    }
    return found[name]


def method(name: str, architecture: str) -> Method:
    """An objective with an architecture."""
    second = "first" if architecture == "shared" else "second"
    return Method(
        branches(architecture, EMBEDDINGS[name]),
        objective(name, architecture),
        views={"first": "first", "second": second},
    )


def train_all(runs: Runs, base: Schedule, config: Config) -> None:
    """Every objective with every architecture and seed."""
    jobs: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for seed in config.numbers():
        jobs["random", seed] = partial(run_untrained, WIDE, base, seed)
        for name in EMBEDDINGS:
            for architecture in ARCHITECTURES:
                jobs[f"{name} {architecture}", seed] = partial(
                    run_method, method(name, architecture), base, seed
                )
    runs.run(jobs)


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` after two epochs of 64 pictures."""
    runs = runs_of(__file__, config)
    train_all(runs, TINY if config.tiny else Schedule(), config)
    figures: dict[str, list[float]] = {"random": runs.values("random")}
    for name in EMBEDDINGS:
        for architecture in ARCHITECTURES:
            figures[f"{name} {architecture}"] = runs.values(f"{name} {architecture}")
        for architecture in ARCHITECTURES[1:]:
            figures[f"{name} loses, {architecture}"] = [
                shared - other
                for shared, other in zip(
                    figures[f"{name} shared"], figures[f"{name} {architecture}"], strict=True
                )
            ]
    return {claim.name: _named(claim, figures) for claim in CLAIMS}


def _named(claim: Claim, figures: Figures) -> Figures:
    """The figures that the claim's rule names, and the accuracies of the objectives in it."""
    shown = [
        f"{name} {each}"
        for name in EMBEDDINGS
        for each in ARCHITECTURES
        if any(n.startswith(name) for n in claim.names())
    ]
    return claim.named(figures, *shown)


if __name__ == "__main__":
    main(__file__, CLAIMS, measure, spent=lambda config: runs_of(__file__, config).seconds())
