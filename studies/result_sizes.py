"""Scores by number of training pairs and by fraction of exchanged captions, on the first division alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pair_features import parse_regime
from result_entries import FAMILIES, Entry, entries

from mmvicreg.studies.folder import StudyFolder

DIVISION = 0


def size_entries(recorded: Path) -> list[Entry]:
    """Methods that were run in every regime of the first division; empty where only the main sizes were run."""
    folder = StudyFolder(recorded)
    lines = [line for line in folder.read_scorings() if parse_regime(line["regime"]).split == DIVISION]
    regimes = {line["regime"] for line in lines}
    runs = {(line["method"], line["regime"]) for line in lines}
    shared = {name for name, _ in runs if all((name, regime) in runs for regime in regimes)}

    def kept(line: Mapping[str, Any]) -> bool:
        return line["regime"] in regimes and line["method"] in shared

    return entries(recorded, kept) if len(regimes) > 2 else []


def _order(regime: str) -> tuple[float, float]:
    found = parse_regime(f"{regime}-split-{DIVISION}")
    return found.shuffled, found.pairs or np.inf


def _names(found: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """Methods, by mean score, and regimes, by fraction of exchanged captions and then size."""
    methods = {
        name: np.mean([each.score for each in found if each.method == name])
        for name in dict.fromkeys(each.method for each in found)
    }
    regimes = sorted({each.regime for each in found}, key=_order)
    return sorted(methods, key=lambda name: -methods[name]), regimes


def size_section(found: Sequence[Entry]) -> str:
    """A Markdown table: a row a method, a column a regime. Empty without entries."""
    if not found:
        return ""
    methods, regimes = _names(found)
    cells = {(each.method, each.regime): f"{100 * each.score:.1f} ({each.ratio:.2f})" for each in found}
    rows = [f"| {name} | {' | '.join(cells[name, regime] for regime in regimes)} |\n" for name in methods]
    heads = " | ".join(regime.removeprefix("pairs-").replace("-", ", ", 1) for regime in regimes)
    table = f"| method | {heads} |\n|---{'|---' * len(regimes)}|\n{''.join(rows)}\n"
    return f"{TEXT.format(count=len(methods))}{table}{PICTURE}"


def size_figure(found: Sequence[Entry], path: Path) -> None:
    """Test score over number of training pairs and over fraction of exchanged captions, a line a method."""
    if not found:
        return
    from matplotlib.figure import Figure

    methods, regimes = _names(found)
    places = {regime: parse_regime(f"{regime}-split-{DIVISION}") for regime in regimes}
    clean = [regime for regime in regimes if not places[regime].shuffled]
    shuffled = [regime for regime in regimes if places[regime].pairs == 1000]
    page = Figure(figsize=(11.0, 4.5), layout="constrained")
    panels = page.subplots(1, 2)
    for panel, chosen, axis in (
        (panels[0], clean, "training pairs"),
        (panels[1], shuffled, "exchanged captions of 1,000, %"),
    ):
        labels = [
            f"{100 * places[each].shuffled:.0f}" if panel is panels[1] else str(places[each].pairs or "all")
            for each in chosen
        ]
        for name in methods:
            mine = {each.regime: each for each in found if each.method == name}
            style = ("-", "--", ":", "-.")[FAMILIES.index(mine[chosen[0]].family)]
            scores = [100 * mine[each].score for each in chosen]
            panel.plot(labels, scores, style, marker="o", markersize=3, label=name)
        panel.set_xlabel(axis)
        panel.set_ylabel("mean recall at 1, 5 and 10 both ways, %")
    page.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path, dpi=110, metadata={"Software": None})


TEXT = """
## By size, and with captions exchanged (first division)

Test, % (ratio to the best contrastive method of these by test score). The {count} methods that ran at every size, five
trials each, five seeds; the columns of 1,000 and all pairs are the runs above, with their number of trials. Shuffled:
this fraction of the training pairs have their captions exchanged among themselves; validation and test pairs are clean.

"""
PICTURE = (
    "![Test scores by number of training pairs and by fraction of exchanged captions](results/sizes.png)\n"
)
