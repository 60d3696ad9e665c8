"""VICReg's ablations on images alone: coefficients, normalized embeddings, expander width, batch size.

    python studies/claims/vicreg_ablations.py            # some six minutes of one core; continues if interrupted
    python studies/claims/vicreg_ablations.py --tiny     # seconds; its scores mean nothing

One learning rate for all. Runs are kept in runs/claims; delete them to train again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from image_methods import WIDE, one_branch
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

BASE = "25, 25, 1"
COEFFICIENTS = (
    (25, 25, 1),
    (1, 1, 1),
    (1, 10, 1),
    (10, 1, 1),
    (25, 0, 0),
    (25, 0, 1),
    (0, 25, 1),
    (1, 1, 0),
    (5, 5, 1),
    (50, 50, 1),
)
"""invariance, variance, covariance"""
WIDTHS = (32, 128, 512, 2048)
BATCHES = (64, 256, 1000)
BATCH = Schedule().batch_size
SOURCE = "VICReg, Table {} (arXiv 2105.04906)"


def _collapse(coefficients: str) -> tuple[Comparison, ...]:
    """Collapsed: the embeddings have no spread, and the probe is at the level of an untrained encoder."""
    return (
        Comparison(f"spread of {coefficients}", "<=", plus=0.1),
        Comparison(coefficients, "<=", "random", plus=5.0),
    )


CLAIMS = (
    Claim(
        "equal_weights_of_one",
        SOURCE.format(7),
        "With the coefficients 1, 1, 1 the training collapses.",
        "collapse; 68.6 with 25, 25, 1",
        _collapse("1, 1, 1"),
        SETTING,
    ),
    Claim(
        "unequal_weights",
        SOURCE.format(7),
        "With unequal weights of invariance and variance (1, 10, 1 and 10, 1, 1) it collapses.",
        "collapse",
        (*_collapse("1, 10, 1"), *_collapse("10, 1, 1")),
        SETTING,
    ),
    Claim(
        "no_variance",
        SOURCE.format(7),
        "Without the variance term it collapses, with or without covariance.",
        "collapse",
        (*_collapse("25, 0, 0"), *_collapse("25, 0, 1")),
        SETTING,
    ),
    Claim(
        "no_invariance",
        SOURCE.format(7),
        "Without the invariance term nothing is learned.",
        "collapse",
        (Comparison("0, 25, 1", "<=", "random", plus=5.0),),
        SETTING,
    ),
    Claim(
        "no_covariance",
        SOURCE.format(7),
        "Without the covariance term the representations are worse.",
        "57.5 with 1, 1, 0; 68.6",
        (Comparison("1, 1, 0", "<=", BASE, plus=-3.0), Comparison("1, 1, 0", "<=", BASE)),
        SETTING,
    ),
    Claim(
        "flat_in_equal_weights",
        SOURCE.format(7),
        "With equal weights of invariance and variance of 5 to 50 the accuracy hardly changes.",
        "68.1 (5, 5, 1), 68.6 (25, 25, 1), 68.3 (50, 50, 1)",
        (Comparison("5, 5, 1", ">=", BASE, plus=-2.0), Comparison("50, 50, 1", ">=", BASE, plus=-2.0)),
        SETTING,
    ),
    Claim(
        "unit_norm",
        SOURCE.format(8),
        "l2-normalized embeddings, of standard deviation 1/√D, are worse.",
        "65.1 against 68.6",
        (Comparison("l2-normalized", "<=", BASE, plus=-1.0), Comparison("l2-normalized", "<=", BASE)),
        SETTING,
    ),
    Claim(
        "standardized",
        SOURCE.format(8),
        "Standardized embeddings are at the same level.",
        "68.4 against 68.6",
        (Comparison("standardized", ">=", BASE, plus=-2.0), Comparison("standardized", "<=", BASE, plus=2.0)),
        SETTING,
    ),
    Claim(
        "expander_width",
        SOURCE.format(12),
        "A wider expander is better.",
        "55.9, 59.2, 62.4, 65.1, 67.3, 68.6 with 256 to 8192",
        (
            Comparison("width 2048", ">=", "width 32", plus=3.0),
            Comparison("rank correlation of width and accuracy", ">=", plus=0.8),
        ),
        "two layers; " + SETTING,
    ),
    Claim(
        "batch_size",
        SOURCE.format(13),
        "Accuracy hardly depends on the batch size.",
        "67.3, 67.9, 68.2, 68.3, 68.6 with 128 to 2048",
        (Comparison("largest distance", "<=", plus=2.0), Comparison("largest distance", "<=", plus=5.0)),
        "of means over seeds; equal numbers of steps; " + SETTING,
    ),
)


class UnitNorm(nn.Module):
    """Rows of length 1."""

    def forward(self, z_ND: Tensor) -> Tensor:
        return F.normalize(z_ND, dim=1)


def vicreg(invariance: float, variance: float, covariance: float, *, floor: float = 1.0) -> mm.Objective:
    """Without the terms whose weight is 0."""
    regularizers: dict[str, mm.Regularizer] = {}
    if variance or covariance:
        regularizers["image"] = mm.VICReg(variance, covariance, floor=floor)
    return mm.Objective(mm.Invariance(invariance), regularizers, pairs=None if invariance else [])


def after_projector(last: Callable[[], nn.Module]) -> Callable[[], dict[str, mm.Branch]]:
    """The usual branch, its embeddings changed by ``last``."""
    return lambda: {
        "image": mm.Branch(
            encoder(), nn.Sequential(mm.projector(REPRESENTATION, (EMBEDDING, EMBEDDING)), last())
        )
    }


def methods() -> dict[str, Method]:
    """Every change but the batch size, by its name in the claims."""
    found = {", ".join(map(str, each)): Method(WIDE, partial(vicreg, *each)) for each in COEFFICIENTS}
    found["l2-normalized"] = Method(
        after_projector(UnitNorm), lambda: vicreg(25, 25, 1, floor=EMBEDDING**-0.5)
    )
    found["standardized"] = Method(
        after_projector(lambda: nn.BatchNorm1d(EMBEDDING, affine=False)), lambda: vicreg(25, 25, 1)
    )
    for width in WIDTHS:
        found[f"width {width}"] = Method(one_branch(width, width), lambda: vicreg(25, 25, 1))
    return found


def train_all(runs: Runs, base: Schedule, config: Config) -> None:
    """Every change with every seed."""
    jobs: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for seed in config.numbers():
        jobs["random", seed] = partial(run_untrained, WIDE, base, seed)
        for name, method in methods().items():
            jobs[name, seed] = partial(run_method, method, base, seed)
        for size in BATCHES:
            jobs[f"batch {size}", seed] = partial(run_method, methods()[BASE], _batch(base, size), seed)
    runs.run(jobs)


def _batch(base: Schedule, size: int) -> Schedule:
    """As many steps as ``base`` with batches of another size."""
    size = min(size, base.pictures)
    return replace(base, batch_size=size, epochs=base.steps() // (base.pictures // size))


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` after two epochs of 64 pictures."""
    runs, base = runs_of(__file__, config), TINY if config.tiny else Schedule()
    train_all(runs, base, config)
    figures: dict[str, list[float]] = {
        "random": runs.values("random"),
        f"width {EMBEDDING}": runs.values(BASE),
        f"batch {BATCH}": runs.values(BASE),
        **{f"batch {size}": runs.values(f"batch {size}") for size in BATCHES},
    }
    for name in methods():
        figures[name] = runs.values(name)
        figures[f"spread of {name}"] = runs.values(name, "spread")
    batches = {name: values for name, values in figures.items() if name.startswith("batch")}
    widths = {width: figures[f"width {width}"] for width in sorted((*WIDTHS, EMBEDDING))}
    means = [fmean(values) for values in batches.values()]
    figures["largest distance"] = [max(means) - min(means)]
    correlation = spearmanr(list(widths), [fmean(values) for values in widths.values()])[0]
    figures["rank correlation of width and accuracy"] = [float(correlation)]
    shown = {
        "batch_size": tuple(batches),
        "expander_width": tuple(f"width {width}" for width in widths),
    }
    return {claim.name: claim.named(figures, *shown.get(claim.name, (BASE,))) for claim in CLAIMS}


if __name__ == "__main__":
    main(__file__, CLAIMS, measure, spent=lambda config: runs_of(__file__, config).seconds())
