"""Scores of every method in every regime of the recorded study, from its scorings and choices."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmvicreg.randomness import generator
from mmvicreg.studies.folder import StudyFolder

RESAMPLES = 1_000
FAMILIES = ("contrastive", "per-branch regularized", "closed form", "closed form, then trained")


@dataclass(frozen=True)
class Entry:
    """A method in a regime, over divisions and seeds. Scores are fractions."""

    method: str
    family: str
    regime: str
    score: float
    low: float
    high: float
    corrected: float
    """with the hubness correction"""
    validation: float
    ratio: float
    """to the best contrastive method; mean of the ratios of the divisions"""
    smallest_ratio: float
    seconds: float
    runs: int
    divisions: int
    date: str
    """of the last scoring"""


def without_division(regime: str) -> str:
    """The regime of all divisions: pairs-1000-split-2 is pairs-1000."""
    return re.sub(r"-split-\d+$", "", regime)


def every_scoring(line: Mapping[str, Any]) -> bool:
    """Keep each."""
    return True


def entries(recorded: Path, kept: Callable[[Mapping[str, Any]], bool] = every_scoring) -> list[Entry]:
    """Every method in every regime by the scorings that are ``kept``, best first. Raises MissingFileError without
    choices."""
    folder = StudyFolder(recorded)
    choices = folder.read_choices()
    scorings: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for line in filter(kept, folder.read_scorings()):
        scorings[without_division(line["regime"])][line["method"]][line["regime"]].append(line)
    found = []
    for regime, methods in scorings.items():
        best = _best_contrastive(methods)
        mine = [_entry(name, regime, lines, best, choices) for name, lines in methods.items()]
        found += sorted(mine, key=lambda entry: -entry.score)
    return found


def _mean(lines: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([line["score"] for line in lines]))


def _best_contrastive(
    methods: Mapping[str, Mapping[str, list[dict[str, Any]]]],
) -> Mapping[str, list[dict[str, Any]]]:
    contrastive = [
        divisions
        for divisions in methods.values()
        if next(iter(divisions.values()))[0]["family"] == "contrastive"
    ]
    return max(contrastive, key=lambda divisions: np.mean([_mean(lines) for lines in divisions.values()]))


def _entry(
    method: str,
    regime: str,
    divisions: Mapping[str, list[dict[str, Any]]],
    best: Mapping[str, list[dict[str, Any]]],
    choices: Mapping[str, Any],
) -> Entry:
    lines = [line for each in divisions.values() for line in each]
    means = [_mean(each) for each in divisions.values()]
    ratios = [_mean(each) / _mean(best[name]) for name, each in divisions.items() if name in best]
    low, high = _interval([[line["score"] for line in each] for each in divisions.values()], method)
    return Entry(
        method=method,
        family=lines[0]["family"],
        regime=regime,
        score=float(np.mean(means)),
        low=low,
        high=high,
        corrected=float(np.mean([line["values"]["corrected"] for line in lines])),
        validation=float(np.mean([choices[f"{method}/{name}"]["validation"] for name in divisions])),
        ratio=float(np.mean(ratios)),
        smallest_ratio=min(ratios),
        seconds=float(np.median([line["seconds"] for line in lines])),
        runs=len(lines),
        divisions=len(divisions),
        date=max(line["time"] for line in lines)[:10],
    )


def _interval(scores: Sequence[Sequence[float]], method: str) -> tuple[float, float]:
    """95% bootstrap interval of the mean over divisions and, within each, seeds."""
    random = generator("results", method)
    drawn = []
    for _ in range(RESAMPLES):
        divisions = [scores[n] for n in random.integers(len(scores), size=len(scores))]
        drawn.append(np.mean([np.mean(random.choice(each, size=len(each))) for each in divisions]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
