"""Sections of docs/results.md about heads that are trained: what changes their scores, and the ways to score them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from pair_record import Scores

CHOSEN = "chosen"
"""The variant that others differ from by one change."""
SCORINGS = ("cosine", "centred dot product", "correlated axes", "predictors")
"""Columns of the ways to score."""
CORRECTED = ", corrected"
"""End of the name of a score with correction for hubs."""


def gap_section(folder: Path) -> str:
    """What ``studies/pair_gap.py`` wrote, best first; empty without its record. Validation scores in percent."""
    record = _record(folder / "gap-1000.json")
    if record is None:
        return ""
    scores: Scores = record["scores"]
    order = sorted(scores, key=lambda name: -mean(_values(scores[name], "validation")))
    lines = [_gap_line(name, scores[name], scores[CHOSEN]) for name in order]
    return GAP.format(**_about(record), lines="".join(lines))


def _gap_line(name: str, runs: Mapping[str, Mapping[str, float]], chosen: Mapping[str, Any]) -> str:
    values = _values(runs, "validation")
    shared = [run for run in runs if run in chosen]
    differences = [runs[run]["validation"] - chosen[run]["validation"] for run in shared]
    difference = f"{100 * mean(differences):+.1f}" if differences and name != CHOSEN else ""
    cells = [
        name,
        f"{100 * mean(values):.1f} ({100 * min(values):.1f}–{100 * max(values):.1f})",
        difference,
        _mean_text(_values(runs, "last")),
        _mean_text(_values(runs, "correlated")),
        str(len(runs)),
    ]
    return f"| {' | '.join(cells)} |\n"


def scorings_section(folder: Path) -> str:
    """What ``studies/pair_scorings.py`` wrote, by the best score of each method without correction; empty without its
    record."""
    record = _record(folder / "scorings-1000.json")
    if record is None:
        return ""
    scores: Scores = record["scores"]
    lines = []
    for name in sorted(scores, key=lambda name: -_best(scores[name])):
        cells = [
            _mean_text(_values(scores[name], way + suffix)) for way in SCORINGS for suffix in ("", CORRECTED)
        ]
        lines.append(f"| {' | '.join([name, *cells])} |\n")
    return WAYS.format(**_about(record), lines="".join(lines))


def _best(runs: Mapping[str, Mapping[str, float]]) -> float:
    found = [_values(runs, way) for way in SCORINGS]
    return max(mean(values) for values in found if values)


def _record(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _about(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "command": record["command"],
        "about": f"{record['date']}, commit {record['commit']}",
        "regimes": ", ".join(record["regimes"]),
        "seeds": ", ".join(map(str, record["seeds"])),
    }


def _values(runs: Mapping[str, Mapping[str, float]], kind: str) -> list[float]:
    return [each[kind] for each in runs.values() if kind in each]


def _mean_text(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f}" if values else ""


GAP = """
## Why trained heads stay below the solution (1,000 pairs, validation)

One change at a time to the settings that the search chose for VICReg; no search follows the change. Mean recall of
validation pairs in percent: mean (smallest–largest) over divisions and seeds, and the mean difference to the chosen
settings in the same division with the same seed. A run is scored by the best of four checks on these pairs; "last" are
its last weights. "Correlated" are the kept heads along axes weighted by their correlation over the training pairs. The
whole training set as one batch is what gradient caching gives exactly; with frozen towers it fits without. The chosen
settings were the best of nine trials on these pairs with seed 0, which favours them a little. Heads from the solution
are trained for 100 steps, and the row of the solution is where they start. A change that a division's settings already
have is not run there; rows of four runs have two seeds. {regimes}, seeds {seeds}; {about}. `{command}`.

| change | validation, % (range) | difference | last, % | correlated, % | runs |
|---|---|---|---|---|---|
{lines}"""

WAYS = """
## Ways to score (1,000 pairs, validation)

Mean recall of validation pairs in percent, of the settings that the search chose, with seeds {seeds} of training pairs
and weights: by the cosine, by the dot product of embeddings less their training means, by the cosine along axes
weighted by their correlation over the training pairs, and by the outputs of predictors. "Corrected": the same with an
inverted softmax over training captions. Heads with predictors were kept by the checks of their predictors' score,
others by those of the cosine. {regimes}; {about}. `{command}`.

| method | cosine | corrected | centred dot product | corrected | correlated axes | corrected | predictors | corrected |
|---|---|---|---|---|---|---|---|---|
{lines}"""
