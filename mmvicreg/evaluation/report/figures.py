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
from matplotlib.patches import Rectangle

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.report.content import Shown
from mmvicreg.evaluation.report.fonts import legible, wrap

INK, LINE, PAPER = "#1f2328", "#d8dee4", "#ffffff"
RIGHT, WRONG = "#1a9c5b", "#c9ced4"
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ec4899", "#eab308", "#06b6d4", "#84cc16")
CELL, NOTE, GAP = 1.2, 0.2, 0.05
"""Inches of a cell of the examples, of the line under it and around its content."""
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
    # Half of the time of a PNG went into its compression at the usual level, 6.
    options: Any = {"pil_kwargs": {"compress_level": 3}} if path.suffix == ".png" else {}
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=160, facecolor=PAPER, **options)
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
    """A grid, one row per query and its best items to the right; matches framed and ticked in green.

    All cells share one panel: matplotlib takes 20 ms for a panel of its own, of which a report has thousands.
    """
    if not examples:
        raise InvalidValueError("no retrieval examples to draw")
    columns = 1 + max(len(example.results) for example in examples)
    text_only = all(isinstance(r.item.content, str) for e in examples for r in e.results)
    widths = [1.0] + [1.5 if text_only else 1.0] * (columns - 1)
    if any(isinstance(example.query.content, str) for example in examples):
        widths[0] = 1.7
    left = np.concatenate([[0.0], np.cumsum(widths)])
    size = (CELL * left[-1], (CELL + NOTE) * len(examples))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for row, example in enumerate(examples):
            top = size[1] - (CELL + NOTE) * row
            boxes = [_Box(CELL * left[n], top, CELL * widths[n]) for n in range(columns)]
            _cell(axes, boxes[0], example.query, INK, f"rank {example.rank:.0f}")
            for box, result in zip(boxes[1:], example.results, strict=False):
                colour = RIGHT if result.right else WRONG
                note = ("✓ " if result.right else "") + f"{result.score:.2f}"
                _cell(axes, box, result.item, colour, note)
        axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
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


@dataclass(frozen=True)
class _Box:
    """Where a cell lies: its left and upper edge and its width, in inches from the lower left corner."""

    left: float
    top: float
    width: float


def _cell(axes: Axes, box: _Box, item: Shown, colour: str, note: str) -> None:
    """The item in a frame, and the note under it."""
    width, height = box.width - 2 * GAP, CELL - 2 * GAP
    x, y = box.left + box.width / 2, box.top - CELL / 2
    if isinstance(item.content, np.ndarray):
        rows, columns = item.content.shape[:2]
        scale = min(width / columns, height / rows)
        width, height = scale * columns, scale * rows
        extent = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        axes.imshow(item.content, extent=extent, aspect="auto", interpolation="antialiased")
    else:
        text, family = legible(wrap(item.content if isinstance(item.content, str) else item.name))
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, family=family, parse_math=False)
    right = colour == RIGHT
    axes.add_patch(
        Rectangle(
            (x - width / 2, y - height / 2),
            width,
            height,
            fill=False,
            edgecolor=colour,
            linewidth=2.0 if right else 0.8,
        )
    )
    axes.text(
        x,
        box.top - CELL - NOTE / 3,
        note,
        ha="center",
        va="center",
        fontsize=7,
        color=RIGHT if right else INK,
    )
