"""Render a report as one self-contained HTML file: nothing is fetched, every text is escaped.

Charts are inline SVG that follow the page's colours and pictures are data addresses, so the file opens from a disk, an
e-mail or a phone, in light and dark, on a narrow screen, in print and with a screen reader.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from mmvicreg.evaluation.description import Description
from mmvicreg.evaluation.geometry import Geometry
from mmvicreg.evaluation.report.curves import history_figures, loss_figures
from mmvicreg.evaluation.report.figures import inline_svg, spectrum_figure
from mmvicreg.evaluation.report.page import Report
from mmvicreg.files import write_text
from mmvicreg.stream.reader import Recording

THUMBNAIL = 128
"""Longest side of a picture in the page, in pixels."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data address."""

    address: str
    width: int
    height: int


def write_report(report: Report, path: str | Path) -> Path:
    """Write the page, atomically; its path."""
    path = Path(path)
    write_text(path, render(report))
    return path


def render(report: Report) -> str:
    """The whole page as text."""
    return environment().get_template("report.html").render(
        report=report, style=page_style(), columns=[*COLUMNS, "HSIC of two dimensions", "dHSIC of four"],
        recalls=_recalls(report),
    )  # fmt: skip


@cache
def environment() -> Environment:
    """The template engine of every page, with its filters; everything that a template inserts is escaped."""
    made = Environment(
        loader=PackageLoader("mmvicreg.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    made.filters |= {
        "plain": plain,
        "percent": percent,
        "times": lambda ratio: f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}",
        "thumbnail": thumbnail,
        "recording": recording,
        "speed": _speed,
        "charts": lambda log: {name: Markup(inline_svg(each)) for name, each in loss_figures(log).items()},
        "histories": _histories,
        "spectrum": _spectrum,
        "cells": _cells,
        "value": value_text,
    }
    return made


def page_style() -> Markup:
    """The style sheet of every page."""
    return Markup((Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8"))


def plain(name: str) -> str:
    """A key as words: "image_to_text" becomes "image → text"."""
    return name.replace("_to_", " → ").replace("_", " ")


def percent(fraction: float) -> str:
    """A fraction in percent, with two digits after the point below 1%."""
    return f"{100 * fraction:.1f}" if fraction >= 0.01 else f"{100 * fraction:.2f}"


def value_text(value: Any) -> str:
    """A setting or score as short text; an en dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def thumbnail(pixels: np.ndarray) -> Thumbnail:
    """uint8 (H, W, 3) as a WebP data address of at most 128 pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(f"data:image/webp;base64,{data}", image.width, image.height)


def recording(found: Recording) -> str:
    """A recording as an Ogg Vorbis data address (about 8 kB a second)."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, found.wave, found.rate, format="OGG", subtype="VORBIS")
    return f"data:audio/ogg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _histories(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, dict[str, Markup]]]:
    """(title, note, charts) of what was measured beside the loss, where any was."""
    parts = {
        "validation": ("Validation while training", "Scores of held-out samples."),
        "embeddings": (
            "Embeddings while training",
            "Of the embeddings of a step: std of a dimension; spread (1 is isotropic, 0 is one direction); effective "
            "rank as a fraction of the largest possible; correlation of two dimensions; SIGReg statistic; margin "
            "(cosine of matched minus that of shuffled pairs).",
        ),
    }
    drawn = {part: history_figures(log, part) for part in parts}
    return [
        (*parts[part], {plain(name): Markup(inline_svg(each)) for name, each in figures.items()})
        for part, figures in drawn.items()
        if figures
    ]


def _speed(log: Sequence[Mapping[str, Any]]) -> str:
    speed = [line["samples_per_second"] for line in log if line.get("samples_per_second")]
    return f", {np.median(speed):,.0f} samples a second" if speed else ""


def _spectrum(found: Description) -> Markup:
    ranks = {branch: each.effective_rank for branch, each in found.geometry.items()}
    return Markup(inline_svg(spectrum_figure(found.spectra, ranks=ranks)))


def _cells(found: Description, branch: str) -> list[tuple[str, list[str]]]:
    """The two lines of a branch in the table of geometry: of its embeddings and of its representations."""
    both = {
        "z": (found.geometry[branch], found.independence[branch]),
        "h": (found.representations[branch], found.representations_independence[branch]),
    }
    return [
        (
            rows,
            [
                *(show(geometry) for show in COLUMNS.values()),
                f"{independence.pairwise_hsic:.1e}",
                f"{independence.dhsic:.1e}",
            ],
        )
        for rows, (geometry, independence) in both.items()
    ]


COLUMNS: Mapping[str, Callable[[Geometry], str]] = {
    "dimensions": lambda g: f"{g.dimensions:,}",
    "effective rank": lambda g: f"{g.effective_rank:.1f}",
    "RankMe": lambda g: f"{g.rank_me:.1f}",
    "std per dimension": lambda g: f"{g.std_mean:.3f} ({g.std_min:.3f} – {g.std_max:.3f})",
    "mean |r|": lambda g: f"{g.correlation_mean:.3f}",
    "uniformity": lambda g: f"{g.uniformity:.2f}",
}
"""What the page shows of a branch; summary.json has every number."""


def _recalls(report: Report) -> dict[str, list[str | None]]:
    """Recall at the smallest k of each split and direction, a value for each run, in percent."""
    names = dict.fromkeys(
        (split, direction)
        for run in report.runs
        for split, each in run.splits.items()
        for direction in each.scores
    )
    table: dict[str, list[str | None]] = {}
    for split, direction in names:
        row: list[str | None] = []
        for run in report.runs:
            found = run.splits[split].scores.get(direction) if split in run.splits else None
            row.append(None if found is None else f"{percent(found.recall[min(found.recall)])}%")
        table[f"{plain(split)}, {plain(direction)}, R@1"] = row
    return table
