"""Figures of a run: loss terms over steps, the spectrum of each branch, retrieval examples.

Each function draws a matplotlib ``Figure`` without global state; ``save`` writes it (PNG, SVG, PDF by the
suffix), ``inline_svg`` gives markup that follows the page's colours.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator

from mmvicreg.errors import InvalidValueError

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
    """One retrieved item: an image, uint8 (H, W, 3), or a caption; whether it matches; its cosine."""

    item: np.ndarray | str
    right: bool
    score: float


@dataclass(frozen=True)
class Example:
    """A query, its best items first, and the expected rank of its best match."""

    query: np.ndarray | str
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


def loss_figures(log: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """One small figure per kind of term, for pages that reflow."""
    return {kind: _single(lambda axes, k=kind, ls=lines: _draw_lines(axes, k, ls)) for kind, lines in
            panels(log).items()}  # fmt: skip


def loss_figure(log: Sequence[Mapping[str, Any]]) -> Figure:
    """The same panels in one figure, for a file."""
    found = panels(log)
    columns = 2 if len(found) in (2, 4) else min(3, len(found))
    rows = -(-len(found) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * columns, 2.7 * rows), layout="constrained", facecolor=PAPER)
        for place, (kind, lines) in enumerate(found.items(), 1):
            _draw_lines(figure.add_subplot(rows, columns, place), kind, lines)
    return figure


def _single(draw: Any) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 2.6), layout="constrained", facecolor="none")
        draw(figure.add_subplot())
    return figure


def _draw_lines(axes: Axes, kind: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    values = np.concatenate([y[np.isfinite(y)] for _, y in lines.values()])
    for colour, (line, (steps, y)) in zip(_cycle(len(lines)), sorted(lines.items()), strict=True):
        axes.plot(steps, y, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(y), color=colour, linewidth=1.6, label=line)
    if values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
    _dress(axes, kind, "step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(lines) > 1 or kind != "total":
        axes.legend(frameon=False, fontsize=8, loc="best")


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _smooth(y: np.ndarray) -> np.ndarray:
    """Centred running mean over a fortieth of the run, ignoring what is not finite."""
    width = max(1, len(y) // 40) // 2
    kernel = np.ones(2 * width + 1)
    finite = np.isfinite(y)
    weight = np.convolve(finite, kernel, "full")[width : width + len(y)]
    total = np.convolve(np.where(finite, y, 0.0), kernel, "full")[width : width + len(y)]
    return np.where(weight > 0, total / np.maximum(weight, 1), np.nan)


def _dress(axes: Axes, title: str, x_label: str) -> None:
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
        for colour, (branch, values) in zip(_cycle(len(spectra)), spectra.items(), strict=True):
            share = np.maximum(values / max(float(values.max(initial=0.0)), 1e-300), lowest)
            index = np.arange(1, len(share) + 1)
            rank = (ranks or {}).get(branch)
            label = branch if rank is None else f"{branch}: effective rank {rank:.0f} of {len(share)}"
            axes.plot(index, share, color=colour, linewidth=1.8, label=label)
            if rank is not None:
                axes.plot([rank], [np.interp(rank, index, share)], "o", color=colour, markersize=5)
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(0.05, max(lowest, axes.get_ylim()[0])), top=2)
        _dress(axes, "spectrum of the embeddings", "eigenvalue")
        axes.legend(frameon=False, fontsize=8, loc="best")

    return _single(draw)


def examples_figure(examples: Sequence[Example]) -> Figure:
    """A grid, one row per query and its best items to the right; matches framed and ticked in green."""
    if not examples:
        raise InvalidValueError("no retrieval examples to draw")
    columns = 1 + max(len(example.results) for example in examples)
    text_only = all(isinstance(r.item, str) for e in examples for r in e.results)
    widths = [1.0] + [1.5 if text_only else 1.0] * (columns - 1)
    if any(isinstance(example.query, str) for example in examples):
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
    """Rows of one true class, columns of the class called; each row as shares of its class."""
    share_CC = confusion_CC / np.maximum(confusion_CC.sum(1, keepdims=True), 1)
    count = len(share_CC)
    side = min(12.0, max(3.5, 0.24 * count + 1.5))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side, side), layout="constrained", facecolor=PAPER)
        axes = figure.add_subplot()
        axes.imshow(share_CC, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        if count <= 60:
            labels = [legible(name[:24]) for name in names[:count]]
            axes.set_xticks(range(count), [text for text, _ in labels], rotation=90, fontsize=6)
            axes.set_yticks(range(count), [text for text, _ in labels], fontsize=6)
            for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
                tick.set_fontfamily(legible(tick.get_text())[1])
        axes.set_xlabel("called")
        axes.set_ylabel("is")
        axes.set_title("confusion, share of each row", loc="left", fontsize=10, fontweight="bold")
    return figure


def masks_figure(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], *, classes: int, ignored: int) -> Figure:
    """For each (key, true mask, called mask): both side by side, one colour a class, ignored pixels white."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 * len(rows), 3.2), layout="constrained", facecolor=PAPER)
        grid = figure.subplots(2, len(rows), squeeze=False)
        for column, (key, truth, called) in enumerate(rows):
            for axes, mask in zip(grid[:, column], (truth, called), strict=True):
                shown = np.ma.masked_equal(truth, ignored).mask | (mask == ignored)
                axes.imshow(np.ma.masked_array(mask, shown), cmap="tab20", vmin=0, vmax=max(classes - 1, 19),
                            interpolation="nearest")  # fmt: skip
                axes.set_xticks([])
                axes.set_yticks([])
            grid[0, column].set_title(legible(key[:16])[0], fontsize=6)
        grid[0, 0].set_ylabel("is")
        grid[1, 0].set_ylabel("called")
    return figure


def _cell(axes: Axes, item: np.ndarray | str, colour: str, note: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=colour, linewidth=2.0 if colour == RIGHT else 0.8)
    axes.set_xlabel(note, fontsize=7, labelpad=2, color=RIGHT if colour == RIGHT else INK)
    if isinstance(item, str):
        text, family = legible(_wrap(item))
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7.5, family=family,
                  transform=axes.transAxes, parse_math=False)  # fmt: skip
    else:
        axes.imshow(item, aspect="equal", interpolation="lanczos")
        axes.set_anchor("C")


def _wrap(text: str, *, width: int = 18, lines: int = 5) -> str:
    """Break at spaces, and inside words longer than a line (scripts without spaces); end in an ellipsis."""
    out = [""]
    for word in text.split():
        if out[-1] and _columns(f"{out[-1]} {word}") > width:
            out.append("")
        out[-1] += " " * bool(out[-1])
        for character in word:
            if _columns(out[-1] + character) > width:
                out.append("")
            out[-1] += character
    return "\n".join(out if len(out) <= lines else [*out[: lines - 1], out[lines - 1][:-1] + "…"])


def _columns(text: str) -> int:
    """Width in Latin letters: Chinese, Japanese and Korean characters count double, accents nothing."""
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else int(unicodedata.combining(c) == 0) for c in text
    )


def legible(text: str) -> tuple[str, list[str]]:
    """The text, and installed font families that between them draw it.

    matplotlib's own DejaVu Sans comes first; characters that no installed font has become "□", so that no
    machine warns or draws an empty box of unknown meaning.
    """
    families = ["DejaVu Sans"]
    missing = {ord(c) for c in text if not c.isspace()} - _covered(font_manager.findfont("DejaVu Sans"))
    while missing:
        best = max(_installed(), key=lambda font: len(missing & _covered(font[1])), default=None)
        if best is None or not missing & _covered(best[1]):
            break
        families.append(best[0])
        missing -= _covered(best[1])
    return "".join("□" if ord(c) in missing else c for c in text), families


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """(family, file) of the upright regular fonts, those for screens first."""
    upright = {
        (entry.name, entry.fname)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        # Emoji fonts are bitmaps; the "Last Resort" font draws a box for every character there is.
        and not {"Emoji", "Last"} & set(entry.name.split())
    }
    return tuple(sorted(upright, key=lambda font: ("Sans" not in font[0], font)))


@cache
def _covered(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):  # bitmap fonts and damaged files: not usable, not our business
        return frozenset()
