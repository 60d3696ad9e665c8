"""Curves of a training log: one panel for each kind of term, one line for each branch or pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.report.figures import PAPER, STYLE, cycle, label_axes, single


def panels(log: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What to draw of a training log: panel -> line -> (steps, values).

    Terms named ``where/kind`` share the panel of their kind; the total comes first. A term may be missing
    from some steps; lines without a finite value are left out. Raises ValueError on an empty log.
    """
    if not log:
        raise InvalidValueError("the log has no steps; nothing to draw")
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"total": {}}
    for record in log:
        values = {"total/all": record["total"]} | {name: value for name, value in record["terms"].items()}
        for name, value in values.items():
            line, kind = name.split("/", 1) if name != "total/all" else ("all terms", "total")
            found.setdefault(kind, {}).setdefault(line, []).append((record["step"], float(value)))
    arrays = {
        kind: {line: np.array(points).T for line, points in lines.items()} for kind, lines in found.items()
    }
    finite = {
        kind: {line: (x, y) for line, (x, y) in lines.items() if np.isfinite(y).any()}
        for kind, lines in arrays.items()
    }
    return {kind: lines for kind, lines in finite.items() if lines}


def history(
    log: Sequence[Mapping[str, Any]], part: str
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What to draw of "validation" or "embeddings" of a log, as :func:`panels` gives it: a panel for each kind of
    score or statistic, a line for each direction, view or pair. Kinds with a single step are left out."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in log:
        for name, value in record.get(part, {}).items():
            line, _, kind = name.partition("/")
            for each, number in value.items() if isinstance(value, Mapping) else [(kind, value)]:
                found.setdefault(each, {}).setdefault(line, []).append((record["step"], float(number)))
    arrays = {
        kind: {line: np.array(points).T for line, points in lines.items() if np.isfinite(points).all()}
        for kind, lines in found.items()
    }
    return {
        kind: drawn
        for kind, lines in arrays.items()
        if (drawn := {line: (x, y) for line, (x, y) in lines.items() if len(x) > 1})
    }


def history_figures(log: Sequence[Mapping[str, Any]], part: str) -> dict[str, Figure]:
    """One small figure per panel of :func:`history`."""
    return {
        kind: single(partial(draw_lines, kind=kind, lines=lines))
        for kind, lines in history(log, part).items()
    }


def loss_figures(log: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """One small figure per kind of term, for pages that reflow."""
    return {kind: single(partial(draw_lines, kind=kind, lines=lines)) for kind, lines in panels(log).items()}


def loss_figure(log: Sequence[Mapping[str, Any]]) -> Figure:
    """The same panels in one figure, for a file."""
    found = panels(log)
    columns = 2 if len(found) in (2, 4) else min(3, len(found))
    rows = -(-len(found) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * columns, 2.7 * rows), layout="constrained", facecolor=PAPER)
        for place, (kind, lines) in enumerate(found.items(), 1):
            draw_lines(figure.add_subplot(rows, columns, place), kind=kind, lines=lines)
    return figure


def draw_lines(axes: Axes, *, kind: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    values = np.concatenate([y[np.isfinite(y)] for _, y in lines.values()])
    for colour, (line, (steps, y)) in zip(cycle(len(lines)), sorted(lines.items()), strict=True):
        axes.plot(steps, y, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(y), color=colour, linewidth=1.6, label=line)
    if values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
    label_axes(axes, kind, "step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(lines) > 1 or kind != "total":
        axes.legend(frameon=False, fontsize=8, loc="best")


def _smooth(y: np.ndarray) -> np.ndarray:
    """Centred running mean over a fortieth of the run, ignoring what is not finite."""
    width = max(1, len(y) // 40) // 2
    kernel = np.ones(2 * width + 1)
    finite = np.isfinite(y)
    weight = np.convolve(finite, kernel, "full")[width : width + len(y)]
    total = np.convolve(np.where(finite, y, 0.0), kernel, "full")[width : width + len(y)]
    return np.where(weight > 0, total / np.maximum(weight, 1), np.nan)
