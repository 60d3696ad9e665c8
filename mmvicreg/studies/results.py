"""The table and the figure of a study, made again from its recorded choices and scorings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmvicreg.errors import MissingFileError
from mmvicreg.files import write_json, write_text
from mmvicreg.randomness import generator
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.study import Study

RESAMPLES = 10_000


@dataclass(frozen=True)
class Cell:
    """One method in one regime: mean test score over seeds as a fraction, and its 95% bootstrap interval over seeds."""

    method: str
    family: str
    regime: str
    mean: float
    low: float
    high: float
    seeds: int
    scorings: int
    """how often test data was scored for this cell; equal to ``seeds`` where each run was scored once"""
    ratio: float | None
    """mean over the baseline's mean in this regime"""
    ratio_low: float | None
    ratio_high: float | None
    validation: float
    trials: int
    seconds: float | None
    """median seconds to train one run"""


def results(study: Study, path: Path) -> list[Cell]:
    """All cells that were scored; written to results.json, results.md and results.png.

    Raises MissingFileError where nothing was scored.
    """
    folder = StudyFolder(path)
    lines, choices = folder.read_scorings(), folder.read_choices()
    if not lines:
        raise MissingFileError(f"{folder.scorings} is missing: nothing was scored; run 'score' first")
    cells = [
        _cell(study, method, regime, lines, choices)
        for regime in study.regimes
        for method in study.methods
        if any((line["method"], line["regime"]) == (method, regime) for line in lines)
    ]
    write_json(path / "results.json", [asdict(cell) for cell in cells])
    write_text(path / "results.md", table(study, cells))
    _figure(study, cells, path / "results.png")
    return cells


def table(study: Study, cells: Sequence[Cell]) -> str:
    """A Markdown table for each regime, best method first. Scores in percent."""
    parts = []
    for regime in study.regimes:
        mine = sorted((cell for cell in cells if cell.regime == regime), key=lambda cell: -cell.mean)
        if not mine:
            continue
        parts.append(
            f"### {regime}\n\n| method | family | test, % (95% interval) | ratio | validation, % | trials | s |\n"
        )
        parts.append("|---|---|---|---|---|---|---|\n")
        parts += [_line(cell) for cell in mine]
        parts.append("\n")
    return "".join(parts)


def _line(cell: Cell) -> str:
    ratio = "" if cell.ratio is None else f"{cell.ratio:.2f} ({cell.ratio_low:.2f}–{cell.ratio_high:.2f})"
    seconds = "" if cell.seconds is None else f"{cell.seconds:.1f}"
    return (
        f"| {cell.method} | {cell.family} | {100 * cell.mean:.1f} ({100 * cell.low:.1f}–{100 * cell.high:.1f}) | "
        f"{ratio} | {100 * cell.validation:.1f} | {cell.trials} | {seconds} |\n"
    )


def _cell(
    study: Study, method: str, regime: str, lines: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]
) -> Cell:
    mine = [line for line in lines if (line["method"], line["regime"]) == (method, regime)]
    base = [line for line in lines if (line["method"], line["regime"]) == (study.baseline, regime)]
    scores = np.array([line["score"] for line in mine])
    low, high = _interval(scores)
    ratio, ratio_low, ratio_high = _ratio(mine, base)
    seconds = [line["seconds"] for line in mine if line["seconds"] is not None]
    choice = choices[f"{method}/{regime}"]
    return Cell(
        method=method,
        family=study.methods[method].family,
        regime=regime,
        mean=float(scores.mean()),
        low=low,
        high=high,
        seeds=len({line["seed"] for line in mine}),
        scorings=len(mine),
        ratio=ratio,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        validation=choice["validation"],
        trials=choice["trials"],
        seconds=float(np.median(seconds)) if seconds else None,
    )


def _interval(scores: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the mean over seeds."""
    if len(scores) < 2:
        return float(scores.mean()), float(scores.mean())
    rows = generator("results", len(scores)).integers(len(scores), size=(RESAMPLES, len(scores)))
    low, high = np.quantile(scores[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _ratio(
    mine: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]
) -> tuple[float | None, float | None, float | None]:
    """Ratio of the means over the seeds that both have, and the bootstrap interval of its pairs."""
    own = {line["seed"]: line["score"] for line in mine}
    other = {line["seed"]: line["score"] for line in base}
    seeds = sorted(set(own) & set(other))
    if not seeds:
        return None, None, None
    pairs = np.array([(own[seed], other[seed]) for seed in seeds])
    rows = generator("ratio", len(seeds)).integers(len(seeds), size=(RESAMPLES, len(seeds)))
    means = pairs[rows].mean(axis=1)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return float(pairs[:, 0].mean() / pairs[:, 1].mean()), float(low), float(high)


def _figure(study: Study, cells: Sequence[Cell], path: Path) -> None:
    from matplotlib.figure import Figure

    regimes = [regime for regime in study.regimes if any(cell.regime == regime for cell in cells)]
    most = max(sum(cell.regime == regime for cell in cells) for regime in regimes)
    figure = Figure(figsize=(5.0 * len(regimes), 1.2 + 0.32 * most), layout="constrained")
    colours = {family: f"C{i}" for i, family in enumerate(dict.fromkeys(cell.family for cell in cells))}
    for panel, regime in zip(np.atleast_1d(figure.subplots(1, len(regimes))), regimes, strict=True):
        mine = sorted((cell for cell in cells if cell.regime == regime), key=lambda cell: cell.mean)
        for row, cell in enumerate(mine):
            panel.barh(row, 100 * cell.mean, color=colours[cell.family])
            panel.plot([100 * cell.low, 100 * cell.high], [row, row], color="black", linewidth=1.2)
        panel.set_yticks(range(len(mine)), [cell.method for cell in mine])
        panel.set_title(regime)
        panel.set_xlabel("test score, %")
    figure.savefig(path, dpi=120)
