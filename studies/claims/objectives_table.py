"""Every row of VICReg's Table 1 as an image-only objective, by one linear-probe protocol.

    python studies/claims/objectives_table.py            # about ten minutes of one core; continues if interrupted
    python studies/claims/objectives_table.py --tiny     # seconds; its scores mean nothing

Each method trains with three learning rates on a seed of its own; the best by validation accuracy trains again with
the seeds that are reported, whose probes read the test pictures once. Supervised training and an untrained encoder
are probed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mmvicreg as mm
import torch
import tyro
from image_data import STANDARD, divide
from image_methods import METHODS, one_branch
from image_protocol import (
    EMBEDDING,
    TINY,
    Runs,
    Schedule,
    geometry,
    probe,
    represent_pictures,
    run_method,
    settle,
    train_supervised,
)

RATES = (4e-3, 1e-2, 2.5e-2)
SEARCH_SEED, SEEDS = 100, (1, 2, 3)
HERE = Path(__file__).parent
RUNS = HERE.parent / "recorded" / "claims" / "objectives_table_runs.jsonl"


@dataclass(frozen=True)
class Config:
    """Where the runs go."""

    runs: Path = RUNS
    """file of the runs, one line each"""
    tiny: bool = False
    """two epochs of 64 pictures, one seed"""


def rate(runs: Runs, method: str) -> float:
    """The learning rate with the best validation accuracy; the middle one before the search."""
    scores = {each: runs.values(f"search {method} {each:g}", "validation") for each in RATES}
    return max(scores, key=lambda each: scores[each]) if all(scores.values()) else RATES[1]


def untrained(seed: int) -> dict[str, float]:
    """The probe of a random encoder."""
    torch.manual_seed(seed)
    model = settle(mm.Model(one_branch(EMBEDDING, EMBEDDING)(), {"first": "image"}))
    return {**probe(model, represent_pictures, test=True), **geometry(model)}


def supervised(count: int, schedule: Schedule, seed: int) -> dict[str, float]:
    """The probe of an encoder trained with ``count`` labels of each class."""
    model = train_supervised(divide().train.of_each_class(count), schedule, seed)
    return probe(model, represent_pictures, test=True)


def train_all(runs: Runs, base: Schedule, seeds: tuple[int, ...]) -> None:
    """The search, then the reported runs."""
    search: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for name, method in METHODS.items():
        for each in RATES:
            schedule = replace(base, learning_rate=each)
            search[f"search {name} {each:g}", SEARCH_SEED] = lambda m=method, s=schedule: run_method(
                m, s, SEARCH_SEED, test=False
            )
    runs.run(search)
    jobs: dict[tuple[str, int], Callable[[], dict[str, float]]] = {}
    for seed in seeds:
        jobs["random", seed] = lambda seed=seed: untrained(seed)
        for name, count in (("supervised", 1000), ("supervised tenth", 10), ("supervised hundredth", 1)):
            jobs[name, seed] = lambda count=count, seed=seed: supervised(count, base, seed)
        for name, method in METHODS.items():
            schedule = replace(base, learning_rate=rate(runs, name))
            jobs[name, seed] = lambda m=method, s=schedule, seed=seed: run_method(m, s, seed)
    runs.run(jobs)


def main(config: Config) -> None:
    """Train what is missing."""
    runs = Runs(config.runs)
    train_all(runs, TINY if config.tiny else Schedule(), SEEDS[:1] if config.tiny else SEEDS)


if __name__ == "__main__":
    main(tyro.cli(Config))
