"""Figures of an evaluation: the spectrum of each branch, retrieval examples, confusion matrices, masks.

Each function draws a matplotlib ``Figure`` without global state; ``save`` writes it (PNG, SVG, PDF by the
suffix), ``inline_svg`` gives markup that follows the page's colours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.report.content import Shown
from mmvicreg.evaluation.report.fonts import legible, wrap

INK, LINE, PAPER = "#1f2328", "#d8dee4", "#ffffff"
RIGHT, WRONG = "#1a9c5b", "#c9ced4"
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ec4899", "#eab308", "#06b6d4", "#84cc16")
STYLE: Any = {
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "mmvicreg",
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Result:
    """One retrieved item, whether it matches, and its cosine."""

    item: Shown
    right: bool
    score: float


@dataclass(frozen=True)
class Example:
    """A query, its best items first, and the expected rank of its best match."""

    query: Shown
    results: tuple[Result, ...]
    rank: float


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure; the suffix names the format."""
    path = Path(path)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=160, facecolor=PAPER)
    return path


def inline_svg(figure: Figure) -> str:
    """SVG markup for a page: transparent, its ink the page's text colour, its grid ``var(--line)``."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :].replace(INK, "currentColor").replace(LINE, "var(--line)")
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", markup))


def single(draw: Callable[[Axes], None]) -> Figure:
    """A figure with one panel of 3.9 by 2.6 inches that ``draw`` fills."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 2.6), layout="constrained", facecolor="none")
        draw(figure.add_subplot())
    return figure


def cycle(count: int) -> list[str]:
    """One colour per line."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def label_axes(axes: Axes, title: str, x_label: str) -> None:
    """Title, axis label and grid in the style of every figure."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x_label)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=8)


def spectrum_figure(spectra: Mapping[str, np.ndarray], *, ranks: Mapping[str, float] | None = None) -> Figure:
    """Covariance eigenvalues of each branch, relative to its largest, over their index.

    A dot marks the effective rank where ``ranks`` gives it. Flat is full; a cliff is a collapse.
    """

    def draw(axes: Axes) -> None:
        lowest = 1e-8
        for colour, (branch, values) in zip(cycle(len(spectra)), spectra.items(), strict=True):
            relative = np.maximum(values / max(float(values.max(initial=0.0)), 1e-300), lowest)
            index = np.arange(1, len(relative) + 1)
            rank = (ranks or {}).get(branch)
            label = branch if rank is None else f"{branch}: effective rank {rank:.0f} of {len(relative)}"
            axes.plot(index, relative, color=colour, linewidth=1.8, label=label)
            if rank is not None:
                axes.plot([rank], [np.interp(rank, index, relative)], "o", color=colour, markersize=5)
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(0.05, max(lowest, axes.get_ylim()[0])), top=2)
        label_axes(axes, "spectrum of the embeddings", "eigenvalue")
        axes.legend(frameon=False, fontsize=8, loc="best")

    return single(draw)


def examples_figure(examples: Sequence[Example]) -> Figure:
    """A grid, one row per query and its best items to the right; matches framed and ticked in green."""
    if not examples:
        raise InvalidValueError("no retrieval examples to draw")
    columns = 1 + max(len(example.results) for example in examples)
    text_only = all(isinstance(r.item.content, str) for e in examples for r in e.results)
    widths = [1.0] + [1.5 if text_only else 1.0] * (columns - 1)
    if any(isinstance(example.query.content, str) for example in examples):
        widths[0] = 1.7
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(1.25 * sum(widths), 1.3 * len(examples)), layout="constrained", facecolor=PAPER
        )
        grid = figure.add_gridspec(len(examples), columns, width_ratios=widths)
        for row, example in enumerate(examples):
            _cell(figure.add_subplot(grid[row, 0]), example.query, INK, f"rank {example.rank:.0f}")
            for column, result in enumerate(example.results, 1):
                colour = RIGHT if result.right else WRONG
                note = ("✓ " if result.right else "") + f"{result.score:.2f}"
                _cell(figure.add_subplot(grid[row, column]), result.item, colour, note)
    return figure


def confusion_figure(confusion_CC: np.ndarray, names: Sequence[str]) -> Figure:
    """True classes as rows, predicted classes as columns; each row as fractions of its class."""
    fraction_CC = confusion_CC / np.maximum(confusion_CC.sum(1, keepdims=True), 1)
    count = len(fraction_CC)
    side = min(12.0, max(3.5, 0.24 * count + 1.5))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side, side), layout="constrained", facecolor=PAPER)
        axes = figure.add_subplot()
        axes.imshow(fraction_CC, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        if count <= 60:
            labels = [legible(name[:24]) for name in names[:count]]
            axes.set_xticks(range(count), [text for text, _ in labels], rotation=90, fontsize=6)
            axes.set_yticks(range(count), [text for text, _ in labels], fontsize=6)
            for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
                tick.set_fontfamily(legible(tick.get_text())[1])
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title("confusion, fraction of each row", loc="left", fontsize=10, fontweight="bold")
    return figure


def masks_figure(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], *, classes: int, ignored: int) -> Figure:
    """For each (key, true mask, predicted mask): both, one colour a class, ignored pixels white."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 * len(rows), 3.2), layout="constrained", facecolor=PAPER)
        grid = figure.subplots(2, len(rows), squeeze=False)
        for column, (key, truth, predicted) in enumerate(rows):
            for axes, mask in zip(grid[:, column], (truth, predicted), strict=True):
                shown = np.ma.masked_equal(truth, ignored).mask | (mask == ignored)
                axes.imshow(np.ma.masked_array(mask, shown), cmap="tab20", vmin=0, vmax=max(classes - 1, 19),
                            interpolation="nearest")  # fmt: skip
                axes.set_xticks([])
                axes.set_yticks([])
            grid[0, column].set_title(legible(key[:16])[0], fontsize=6)
        grid[0, 0].set_ylabel("true")
        grid[1, 0].set_ylabel("predicted")
    return figure


def _cell(axes: Axes, item: Shown, colour: str, note: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=colour, linewidth=2.0 if colour == RIGHT else 0.8)
    axes.set_xlabel(note, fontsize=7, labelpad=2, color=RIGHT if colour == RIGHT else INK)
    if not isinstance(item.content, np.ndarray):
        text, family = legible(wrap(item.content if isinstance(item.content, str) else item.name))
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7.5, family=family,
                  transform=axes.transAxes, parse_math=False)  # fmt: skip
    else:
        axes.imshow(item.content, aspect="equal", interpolation="lanczos")
        axes.set_anchor("C")
