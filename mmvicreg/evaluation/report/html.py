"""``report.html``: one file that shows a run to anyone, with nothing fetched from elsewhere.

Pictures are inline (SVG charts that follow the page's colours, thumbnails as data URIs), so the file opens
from a disk, an e-mail or a phone, in light and in dark.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmvicreg.evaluation.description import Description
from mmvicreg.evaluation.geometry import Geometry
from mmvicreg.evaluation.independence import Independence
from mmvicreg.evaluation.report import figures as pictures
from mmvicreg.evaluation.report.figures import Example
from mmvicreg.evaluation.retrieval import RetrievalScores


@dataclass(frozen=True)
class Report:
    """What a report shows; every part but the title may be empty and is then left out.

    ``scores``: split -> direction ("image_to_text") -> scores. ``log``: the records of the run's JSON-lines
    log. ``examples``: heading -> examples.
    """

    title: str
    note: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, RetrievalScores]] = field(default_factory=dict)
    description: Description | None = None
    log: Sequence[Mapping[str, Any]] = ()
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)


def write_report(report: Report, path: str | Path) -> Path:
    """Write the page, atomically."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render(report), encoding="utf-8")
    os.replace(partial, path)
    return path


def render(report: Report) -> str:
    """The whole page as text."""
    sections = [
        _headline(report.scores),
        _section("Retrieval", *(_score_table(split, by) for split, by in report.scores.items())),
        *(_section(heading, _example_cards(found)) for heading, found in report.examples.items() if found),
        _section("Training", _charts(report.log)),
        _section("Geometry", _geometry(report.description)),
        _section("Configuration", _listing(report.config)),
        _section("Environment", _listing(report.environment)),
    ]
    note = f"<p class=note>{escape(report.note)}</p>" if report.note else ""
    title = escape(report.title)
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{style}</style></head><body><main>"
        f"<header><h1>{title}</h1>{note}</header>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _words(name: str) -> str:
    return escape(name.replace("_to_", " → ").replace("_", " "))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}" if fraction >= 0.01 else f"{100 * fraction:.2f}"


def _headline(scores: Mapping[str, Mapping[str, RetrievalScores]]) -> str:
    """The first recall of each split and direction, big, with how many times chance it is."""
    cards = []
    for split, by in scores.items():
        for direction, found in by.items():
            k = min(found.recall)
            times = found.recall[k] / found.chance[k]
            cards.append(
                f"<div class=card><div class=small>{_words(split)}<br>{_words(direction)}</div>"
                f"<div class=big>{_percent(found.recall[k])}<span>%</span></div>"
                f"<div class=small>R@{k}, {times:.{0 if times >= 10 else 1}f} × chance</div></div>"
            )
    return f"<div class=cards>{''.join(cards)}</div>" if cards else ""


def _score_table(split: str, by: Mapping[str, RetrievalScores]) -> str:
    ks = list(next(iter(by.values())).recall)
    head = "".join(f"<th>R@{k}</th>" for k in ks)
    rows = []
    for direction, found in by.items():
        cells = "".join(_recall_cell(found, k) for k in ks)
        rows.append(
            f"<tr><th scope=row>{_words(direction)}<div class=small>{found.num_queries:,} queries, "
            f"{found.num_items:,} items</div></th>{cells}<td>{found.median_rank:g}</td>"
            f"<td>{100 * found.mean_average_precision:.1f}</td></tr>"
        )
    return (
        f"<h3>{_words(split)}</h3><div class=wide><table><thead><tr><th></th>{head}<th>median rank</th>"
        f"<th>mAP@R</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _recall_cell(found: RetrievalScores, k: int) -> str:
    recall, (low, high) = found.recall[k], found.interval[k]
    spread = f"{_percent(low)} – {_percent(high)}<br>" if high > low else ""
    return (
        f"<td><b>{_percent(recall)}</b><div class=bar><i style='width:{100 * recall:.1f}%'></i>"
        f"<u style='left:{100 * found.chance[k]:.1f}%'></u></div>"
        f"<div class=small>{spread}chance {_percent(found.chance[k])}</div></td>"
    )


def _example_cards(examples: Sequence[Example]) -> str:
    rows = []
    for example in examples:
        items = "".join(
            f"<div class='item{' right' if result.right else ''}'>{_content(result.item)}"
            f"<div class=small>{'✓ ' if result.right else ''}{result.score:.2f}</div></div>"
            for result in example.results
        )
        rank = f"<div class=small>rank {example.rank:.0f}</div>"
        query = f"<div class='item query'>{_content(example.query)}{rank}</div>"
        rows.append(f"<div class=example>{query}<div class=strip>{items}</div></div>")
    legend = "<p class=note>Query at the left, best first; a match is framed in green.</p>"
    return legend + "".join(rows)


def _content(item: np.ndarray | str) -> str:
    if isinstance(item, str):
        return f"<div class=caption dir=auto>{escape(item)}</div>"
    image = Image.fromarray(item)
    image.thumbnail((128, 128))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='' width={image.width} height={image.height} src='data:image/webp;base64,{data}'>"


def _charts(log: Sequence[Mapping[str, Any]]) -> str:
    if not log:
        return ""
    figures = "".join(
        f"<figure>{pictures.inline_svg(f)}</figure>" for f in pictures.loss_figures(log).values()
    )
    speed = [record["samples_per_second"] for record in log if record.get("samples_per_second")]
    rate = f", {np.median(speed):,.0f} samples a second" if speed else ""
    note = f"<p class=note>{log[-1]['step'] + 1:,} steps{rate}. Terms as they are, before their weights.</p>"
    return f"{note}<div class=charts>{figures}</div>"


def _geometry(found: Description | None) -> str:
    if found is None:
        return ""
    ranks = {branch: each.effective_rank for branch, each in found.geometry.items()}
    svg = pictures.inline_svg(pictures.spectrum_figure(found.spectra, ranks=ranks))
    head = "".join(
        f"<th>{name}</th>" for name in ("", "rows of", *COLUMNS, "HSIC of two dimensions", "dHSIC of four")
    )
    rows = ""
    for branch, each in found.geometry.items():
        rows += _geometry_row(branch, "z", each, found.independence[branch])
        rows += _geometry_row(
            "", "h", found.representations[branch], found.representations_independence[branch]
        )
    parts = [
        f"<div class=charts><figure>{svg}</figure></div>",
        f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>",
        "<p class=note>z: embeddings, after the projector; h: representations, before it.</p>",
    ]
    parts += [
        f"<p class=note>Gap {_words(pair)}: centroids {gap.centroid:.3f} apart, shapes "
        f"{gap.distribution:.3f}; {_percent(gap.centroid_accuracy)}% of rows are nearer to their own "
        "modality's centroid (50 is mixed).</p>"
        for pair, gap in found.gaps.items()
    ]
    parts += [
        f"<p class=note>Matching pairs {_words(pair)}: alignment {each.alignment:.3f} (0 is perfect, 2 is none), "
        f"LiDAR {each.lidar:.1f}, of {each.pairs:,} pairs.</p>"
        for pair, each in found.pairs.items()
    ]
    return "".join(parts)


def _geometry_row(branch: str, rows: str, geometry: Geometry, independence: Independence) -> str:
    cells = "".join(f"<td>{show(geometry)}</td>" for show in COLUMNS.values())
    cells += f"<td>{independence.pairwise_hsic:.1e}</td><td>{independence.dhsic:.1e}</td>"
    return f"<tr><th scope=row>{_words(branch)}</th><td>{rows}</td>{cells}</tr>"


COLUMNS: Mapping[str, Callable[[Geometry], str]] = {
    "dimensions": lambda g: f"{g.dimensions:,}",
    "effective rank": lambda g: f"{g.effective_rank:.1f}",
    "RankMe": lambda g: f"{g.rank_me:.1f}",
    "std per dimension": lambda g: (
        f"{g.std_mean:.3f}<div class=small>{g.std_min:.3f} – {g.std_max:.3f}</div>"
    ),
    "mean |r|": lambda g: f"{g.correlation_mean:.3f}",
    "uniformity": lambda g: f"{g.uniformity:.2f}",
}
"""What the report shows of a branch; summary.json has every number."""


def _listing(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{_value(value)}</dd>" for name, value in values.items())
    return f"<details open><summary>{len(values)} entries</summary><dl>{rows}</dl></details>"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            f"<dl>{''.join(f'<dt>{escape(str(k))}</dt><dd>{_value(v)}</dd>' for k, v in value.items())}</dl>"
        )
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
