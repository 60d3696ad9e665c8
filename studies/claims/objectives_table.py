"""Every row of VICReg's Table 1 as an image-only objective, by one linear-probe protocol.

    python studies/claims/objectives_table.py            # some eight minutes of one core; continues if interrupted
    python studies/claims/objectives_table.py --tiny     # seconds; its scores mean nothing

Each method trains with two learning rates on a seed of its own; the better by validation accuracy trains again with the
seeds that are reported, whose probes read the test pictures once. Supervised training and an untrained encoder are
probed alike. Runs are kept in runs/claims; delete them to train again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from image_methods import METHODS, PAPER, WIDE
from image_protocol import SETTING, TINY, Schedule, run_method, run_supervised, run_untrained
from image_runs import Runs, runs_of

RATES = (3e-3, 1e-2)
SEARCH_SEED = 100
SOURCE = "VICReg, Table 1 (arXiv 2105.04906)"
PRETEXTS = ("PIRL", "CPC v2", "CMC")
REGULARIZED = ("SwAV", "Barlow Twins", "BYOL", "VICReg")
TWO_VIEWS = ("SimCLR", "MoCo v2", "SimSiam", "SwAV", "InfoMin", "Barlow Twins", "BYOL", "VICReg")

CLAIMS = (
    Claim(
        "every_row",
        SOURCE,
        "Every image-only objective lies between an untrained encoder and supervised training.",
        ", ".join(f"{name} {score}" for name, score in PAPER.items()) + "; supervised 76.5",
        (
            *(Comparison(name, ">=", "random", plus=5.0) for name in METHODS),
            *(Comparison(name, "<=", "supervised") for name in METHODS),
        ),
        SETTING,
    ),
    Claim(
        "vicreg_level",
        SOURCE,
        "VICReg is at the level of Barlow Twins and of BYOL.",
        "VICReg 73.2, Barlow Twins 73.2, BYOL 74.3",
        (
            Comparison("VICReg", ">=", "Barlow Twins", plus=-3.0),
            Comparison("VICReg", "<=", "Barlow Twins", plus=3.0),
            Comparison("VICReg", ">=", "BYOL", plus=-3.0),
        ),
        SETTING,
    ),
    Claim(
        "order",
        SOURCE,
        "The order of the twelve objectives.",
        "1 by definition",
        (Comparison("rank correlation", ">=", plus=0.5), Comparison("rank correlation", ">=", plus=0.0)),
        "Spearman's rank correlation of our means with the paper's figures",
    ),
    Claim(
        "close_together",
        SOURCE,
        "From SimCLR to BYOL the objectives on two augmented views lie within five points.",
        "69.3 to 74.3",
        (Comparison("largest distance", "<=", plus=5.0), Comparison("largest distance", "<=", plus=10.0)),
        "of means over seeds: " + ", ".join(TWO_VIEWS),
    ),
    Claim(
        "moco_v2",
        SOURCE,
        "MoCo v2 (a nonlinear head and stronger augmentation) is better than MoCo v1.",
        "71.1, 60.6",
        (Comparison("MoCo v2", ">=", "MoCo v1", plus=2.0), Comparison("MoCo v2", ">=", "MoCo v1")),
        SETTING,
    ),
    Claim(
        "infomin",
        SOURCE,
        "InfoMin's stronger augmentation is better than MoCo v2's.",
        "73.0, 71.1",
        (Comparison("InfoMin", ">=", "MoCo v2", plus=0.5), Comparison("InfoMin", ">=", "MoCo v2")),
        SETTING,
    ),
    Claim(
        "pretexts",
        SOURCE,
        "Jigsaw, patch prediction and split colours stay below SwAV, Barlow Twins, BYOL and VICReg.",
        "63.6 to 66.2; 71.8 to 74.3",
        (
            Comparison("best pretext", "<=", "worst of SwAV, Barlow Twins, BYOL, VICReg"),
            Comparison("mean pretext", "<=", "mean of SwAV, Barlow Twins, BYOL, VICReg", plus=-3.0),
        ),
        SETTING,
    ),
    Claim(
        "without_negatives",
        SOURCE,
        "VICReg needs no negatives to be better than SimCLR.",
        "73.2, 69.3",
        (Comparison("VICReg", ">=", "SimCLR", plus=1.0), Comparison("VICReg", ">=", "SimCLR")),
        SETTING,
    ),
    Claim(
        "few_labels",
        "VICReg, Table 2 (arXiv 2105.04906)",
        "With 10% and 1% of the labels VICReg is better than supervised training on the same labels.",
        "VICReg 69.5 and 54.8, fine-tuned",
        (
            Comparison("VICReg, 10%", ">=", "supervised, 10%", plus=2.0),
            Comparison("VICReg, 1%", ">=", "supervised, 1%", plus=2.0),
        ),
        "linear probe on frozen features; 10 pictures and 1 picture of each class",
    ),
    Claim(
        "later_regularizers",
        "VISReg, Galaxy10 (arXiv 2606.02572)",
        "VISReg and SIGReg are at least at the level of VICReg.",
        "VISReg 80.5, SIGReg 80.5, VICReg 79.9",
        (Comparison("VISReg", ">=", "VICReg", plus=-2.0), Comparison("SIGReg", ">=", "VICReg", plus=-2.0)),
        SETTING,
    ),
)


def search(runs: Runs, base: Schedule) -> dict[str, Schedule]:
    """The schedule of each method with the learning rate that validation pictures chose."""
    jobs: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for name, method in METHODS.items():
        for rate in RATES:
            schedule = replace(base, learning_rate=rate)
            job = partial(run_method, method, schedule, SEARCH_SEED, test=False)
            jobs[f"search {name} {rate:g}", SEARCH_SEED] = job
    runs.run(jobs)
    best = {
        name: max(RATES, key=lambda rate: runs.mean(f"search {name} {rate:g}", "validation"))
        for name in METHODS
    }
    return {name: replace(base, learning_rate=rate) for name, rate in best.items()}


def train_all(runs: Runs, base: Schedule, schedules: Mapping[str, Schedule], seeds: Sequence[int]) -> None:
    """The runs that are reported."""
    jobs: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for seed in seeds:
        jobs["random", seed] = partial(run_untrained, WIDE, base, seed)
        for name, count in (("supervised", 1000), ("supervised, 10%", 10), ("supervised, 1%", 1)):
            jobs[name, seed] = partial(run_supervised, count, base, seed)
        for name, method in METHODS.items():
            jobs[name, seed] = partial(run_method, method, schedules[name], seed)
    runs.run(jobs)


def _over(choose: Callable[[Sequence[float]], float], runs: Runs, names: Sequence[str]) -> list[float]:
    """``choose`` of the methods' accuracies, seed by seed."""
    return [choose(each) for each in zip(*(runs.values(name) for name in names), strict=True)]


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` after two epochs of 64 pictures and without a search."""
    runs, base = runs_of(__file__, config), TINY if config.tiny else Schedule()
    schedules = dict.fromkeys(METHODS, base) if config.tiny else search(runs, base)
    train_all(runs, base, schedules, config.numbers())
    names = ("random", *METHODS, "supervised")
    accuracies = {name: runs.values(name) for name in names}
    means = {name: fmean(values) for name, values in accuracies.items()}
    joint = [means[name] for name in TWO_VIEWS]
    found: dict[str, Figures] = {claim.name: accuracies for claim in CLAIMS if claim.setting == SETTING}
    found["order"] = {
        "rank correlation": [float(spearmanr([means[name] for name in PAPER], list(PAPER.values()))[0])]
    }
    found["close_together"] = {"largest distance": [max(joint) - min(joint)]}
    found["pretexts"] = {
        "best pretext": _over(max, runs, PRETEXTS),
        "worst of SwAV, Barlow Twins, BYOL, VICReg": _over(min, runs, REGULARIZED),
        "mean pretext": _over(fmean, runs, PRETEXTS),
        "mean of SwAV, Barlow Twins, BYOL, VICReg": _over(fmean, runs, REGULARIZED),
    }
    found["few_labels"] = {
        "VICReg, 10%": runs.values("VICReg", "tenth"),
        "supervised, 10%": runs.values("supervised, 10%", "tenth"),
        "VICReg, 1%": runs.values("VICReg", "hundredth"),
        "supervised, 1%": runs.values("supervised, 1%", "hundredth"),
        **{f"{name}, 10%": runs.values(name, "tenth") for name in METHODS if name != "VICReg"},
        **{f"{name}, 1%": runs.values(name, "hundredth") for name in METHODS if name != "VICReg"},
    }
    whole = ("every_row", "few_labels")  # a reader wants all methods beside those that the rule names
    return {
        claim.name: found[claim.name] if claim.name in whole else claim.named(found[claim.name])
        for claim in CLAIMS
    }


if __name__ == "__main__":
    main(__file__, CLAIMS, measure, spent=lambda config: runs_of(__file__, config).seconds())
