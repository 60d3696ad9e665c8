"""The page of ``mmvicreg look``: statistics of a data set in words, numbers and histograms, and a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, PackageLoader
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mmvicreg.evaluation.report.content import Shown
from mmvicreg.evaluation.report.diagnosis import Finding
from mmvicreg.evaluation.report.figures import COLOURS, Example, inline_svg, label_axes, single
from mmvicreg.evaluation.report.html import environment, page_style
from mmvicreg.exploration.data_statistics import DataStatistics, Spread
from mmvicreg.files import write_text

MANY = 0.05
"""Fraction of captions truncated, or of items repeated, above which the page says so first."""


@dataclass(frozen=True)
class ContactSheet:
    """What the page shows."""

    title: str
    statistics: DataStatistics
    samples: Sequence[Example]
    """samples spread evenly over the data: the first item and what belongs to it"""
    repeated: Sequence[tuple[str, Sequence[Shown]]] = ()
    """the largest groups of duplicates, with what they are"""


def write_contact_sheet(sheet: ContactSheet, path: Path) -> Path:
    """Write the page, atomically; its path."""
    found = sheet.statistics
    pages = environment().overlay(
        loader=ChoiceLoader([PackageLoader("mmvicreg.exploration", "templates"), *_loaders()])
    )
    text = pages.get_template("look.html").render(
        sheet=sheet,
        style=page_style(),
        found=found,
        findings=findings_of(found),
        cards=_cards(found),
        charts={name: Markup(inline_svg(single(draw))) for name, draw in _charts(found).items()},
        spreads=spreads_of(found),
        tables=_tables(found),
    )
    write_text(path, text)
    return path


def _loaders() -> list[Any]:
    loader = environment().loader
    return [loader] if loader is not None else []


def findings_of(found: DataStatistics) -> list[Finding]:
    """What to know before training, in plain sentences: problems first, then notices."""
    order = ("problem", "notice", "good")
    return sorted(_findings(found), key=lambda finding: order.index(finding.level))


def _findings(found: DataStatistics) -> Iterator[Finding]:
    unusable = sum(found.faults.values())
    if unusable:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in list(found.faults.items())[:5])
        yield Finding("problem", f"{unusable:,} members cannot be used: {reasons}. Training rejects them.")
    for name, tokens in found.tokens.items():
        yield Finding(
            "notice" if tokens.truncated > MANY else "good",
            f"{100 * tokens.truncated:.1f}% of the captions have more tokens than the {tokens.length} that the "
            f"{name} branch reads; their ends are cut off.",
        )
    full = max((set(name.split(" + ")) for name in found.combinations), key=len, default=set())
    lacking = sum(count for name, count in found.combinations.items() if set(name.split(" + ")) != full)
    if lacking:
        yield Finding(
            "notice",
            f"{lacking:,} of {found.looked_at:,} samples lack a modality that others have ({', '.join(sorted(full))}).",
        )
    advice = {
        "images": "Keep each group in one split, or scores are too good.",
        "captions": "A caption of several images matches all of them when scores are counted.",
    }
    for what, repeats in {"images": found.images, "captions": found.captions}.items():
        if repeats is None:
            continue
        fraction = (repeats.exact + repeats.near) / repeats.items
        yield Finding(
            "notice" if fraction > MANY else "good",
            f"{repeats.exact:,} of {repeats.items:,} {what} equal an earlier one, and {repeats.near:,} more nearly do "
            f"({100 * fraction:.1f}%). {advice[what]}",
        )
    if found.flat:
        yield Finding("notice", f"{found.flat:,} images have no contrast: they show nothing.")


def spreads_of(found: DataStatistics) -> dict[str, Spread]:
    """Every distribution by its name with the unit."""
    named = {
        "caption length (characters)": found.characters,
        **{f"caption length (tokens of {name})": each.counts for name, each in found.tokens.items()},
        "captions a sample": found.captions_per_sample,
        "image width (pixels)": found.width,
        "image height (pixels)": found.height,
        "aspect ratio (width / height)": found.aspect,
        "recording (seconds)": found.seconds,
    }
    return {name: spread for name, spread in named.items() if spread is not None}


def _cards(found: DataStatistics) -> dict[str, str]:
    cards = {"samples": found.samples, "samples looked at": found.looked_at}
    cards |= {"images": found.images.items} if found.images else {}
    cards |= {"captions": found.captions.items, "different words": found.words} if found.captions else {}
    cards |= {"recordings": found.seconds.count} if found.seconds else {}
    return {name: f"{count:,}" for name, count in cards.items()}


def _charts(found: DataStatistics) -> dict[str, Any]:
    return {
        name: partial(_histogram, values=spread.values, title=name)
        for name, spread in spreads_of(found).items()
        if spread.maximum > spread.minimum
    }


def _histogram(axes: Axes, *, values: np.ndarray, title: str) -> None:
    whole = bool((values == np.round(values)).all())
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    if whole:
        step = max(1, round((high - low) / 40))
        edges = np.arange(low - 0.5, high + step + 0.5, step)
    else:
        edges = np.linspace(low, max(high, low + 1e-9), 41)
    axes.hist(np.minimum(values, edges[-1] - 1e-9), bins=edges.tolist(), color=COLOURS[0])
    label_axes(axes, title, "")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _tables(found: DataStatistics) -> dict[str, Mapping[str, int]]:
    tables: dict[str, Mapping[str, int]] = {
        "What samples hold": found.combinations,
        "Members by suffix": found.suffixes,
        "Writing of the captions": found.writing,
        "Languages given with the captions": found.languages,
        "Most frequent words": dict(found.frequent_words),
        "What cannot be used": found.faults,
    }
    return {name: rows for name, rows in tables.items() if rows}
