"""Make docs/results.md and its figures again from the committed scorings, and print the headline ratios as JSON.

    python studies/results.py
    python studies/results.py --recorded studies/pairs --docs /tmp/results   # of a study of your own

It reads ``choices.json``, ``scorings.jsonl`` and the records of claims alone; nothing is trained and no test data is
read. Divisions of the same data are one regime: means are over divisions and seeds, ratios are to the best contrastive
method of the regime, which is taken by its *test* score, to the disadvantage of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from claim_page import claims_page, count_verdicts
from claim_record import read_records
from result_entries import FAMILIES, Entry, entries
from result_gap import gap_section, scorings_section
from result_leaderboard import about_of, best_of, fewer, leaderboard, other_data, table
from result_sizes import size_entries, size_figure, size_section

from mmvicreg.errors import show_messages_alone
from mmvicreg.files import write_text

HERE = Path(__file__).parent
MAIN = ("pairs-1000", "pairs-all")
"""Regimes with a table of their own; others are compared by size."""


@dataclass(frozen=True)
class Config:
    """Where the recorded scorings lie, and where the page goes."""

    recorded: Path = HERE / "recorded" / "pairs"
    """folder with choices.json, scorings.jsonl and about.json; claims are read from the folder claims beside it"""
    docs: Path = HERE.parent / "docs"
    """folder of results.md and results/"""


def headline(found: Sequence[Entry]) -> dict[str, float | None]:
    """The ratio of each family's best method *by validation pairs* to the best contrastive method by test pairs; of the
    methods that ran in the most divisions; None where a regime was not run. ``started``: VICReg from the closed form.
    """

    ratios: dict[str, float | None] = {}
    for regime in MAIN:
        candidates = {
            "closed_form": best_of(found, regime, "closed form"),
            "trained": best_of(found, regime, "per-branch regularized"),
            "started": [
                each for each in found if (each.regime, each.method) == (regime, "vicreg_from_solution")
            ],
        }
        for name, best in candidates.items():
            key = f"{name}_ratio_{regime.removeprefix('pairs-')}"
            ratios[key] = round(best[0].ratio, 3) if best else None
    return ratios


def tabled(found: Sequence[Entry], sizes: Sequence[Entry]) -> list[str]:
    """Regimes with a table of their own: the main ones where others are compared by size, else all."""
    regimes = list(dict.fromkeys(each.regime for each in found))
    return [regime for regime in MAIN if regime in regimes] if sizes else regimes


def figure(found: Sequence[Entry], path: Path) -> None:
    """One bar a method, a panel a regime."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    regimes = list(dict.fromkeys(each.regime for each in found))
    page = Figure(figsize=(5.5 * len(regimes), 5.0), layout="constrained")
    for panel, regime in zip(np.atleast_1d(page.subplots(1, len(regimes))), regimes, strict=True):
        mine = [each for each in found if each.regime == regime][::-1]
        for row, each in enumerate(mine):
            panel.barh(row, 100 * each.score, color=f"C{FAMILIES.index(each.family)}")
            panel.plot([100 * each.low, 100 * each.high], [row, row], color="black", linewidth=1.2)
        most = max(each.divisions for each in mine)
        panel.set_yticks(range(len(mine)), [each.method + fewer(each, most) for each in mine])
        panel.set_title(f"{regime}, test")
        panel.set_xlabel("mean recall at 1, 5 and 10 both ways, %")
    present = {each.family for each in found}
    handles = {name: Patch(color=f"C{number}") for number, name in enumerate(FAMILIES) if name in present}
    page.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path, dpi=110, metadata={"Software": None})


def ablation(path: Path) -> str:
    """A Markdown table of what ``studies/pair_ablation.py`` wrote. Validation scores in percent."""
    record = json.loads(path.read_text(encoding="utf-8"))
    means = {name: 100 * float(np.mean(values)) for name, values in record["scores"].items()}
    parts = [name.removeprefix("without: ") for name in means if name.startswith("without: ")]
    lines = [
        f"| {part} | {means[f'without: {part}']:.1f} | {means[f'only: {part}']:.1f} |\n" for part in parts
    ]
    return ABLATION.format(
        size=path.stem.removeprefix("ablation-"),
        divisions=len(record["regimes"]),
        everything=means["everything"],
        nothing=means["nothing"],
        lines="".join(lines),
    )


def held_out(path: Path) -> str:
    """A Markdown table of the file that was scored once, at the end; empty without its record."""
    if not path.is_file():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = []
    for direction in ("image_to_text", "text_to_image"):
        found = {
            name.removeprefix(f"{direction}."): value
            for name, value in record["scores"].items()
            if name.startswith(direction)
        }
        recalls = [
            f"{100 * found[f'recall_at_{k}']:.1f} ({100 * found[f'chance_at_{k}']:.1f})" for k in (1, 5, 10)
        ]
        cells = [
            direction.replace("_", " "),
            *recalls,
            f"{found['median_rank']:g}",
            f"{found['num_queries']}",
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return HELD_OUT.format(**record, lines="".join(lines))


def page(
    found: Sequence[Entry],
    sizes: Sequence[Entry],
    about: Mapping[str, str],
    ablations: Sequence[Path] = (),
    first: str = "",
    last: str = "",
) -> str:
    """docs/results.md; ``first`` and ``last``: sections before and after."""
    parts = [TITLE, first, TEXT.format(**about)]
    if any(each.family == FAMILIES[3] for each in found):
        parts.append(STARTED)
    for regime in tabled(found, sizes):
        divisions = max(each.divisions for each in found if each.regime == regime)
        parts.append(f"## {regime} ({divisions} division{'s' if divisions > 1 else ''})\n\n")
        parts.append(table(found, regime) + "\n")
    parts.append("![Test scores by method and regime](results/pairs.png)\n")
    return "".join([*parts, size_section(sizes), *map(ablation, ablations), last])


TITLE = "# Results\n\n"
TEXT = """## What is compared

Which objective aligns two frozen towers best on retrieval? Made by `python studies/results.py` from the scorings in
`studies/recorded/pairs`, which `python studies/pairs.py all` makes; do not edit.

Date {date}, commit {commit}, {hardware}.

Pairs of pictures and English names, divided by concept, so that no concept of the test pairs was seen. Frozen
EfficientNet-Lite0 (128 pixels) and MiniLM features, the same for every method, with their augmented crops and captions
offered to all. {trials} trials a method and division, proposed by Optuna and chosen by validation pairs; then fresh
seeds, and each run is scored on test pairs once. Score: mean of recall at 1, 5 and 10 both ways. Ratio: to the best
contrastive method by test score, mean over divisions (smallest in brackets). Corrected: with an inverted softmax over
training captions, for every method alike. Seconds of one core, while other work ran.

{limits}

"""

STARTED = """"Closed form, then trained" begins at the two-way kernel ridge that was chosen for the division, and has
its trials on top of that method's. A ratio is to the best contrastive method in the same divisions.

"""

HELD_OUT = """
## A held-out file, scored once

{data}. {method}. Date {date}, scorings: {scorings}.

<!-- not run: it would score the file again -->
```bash
{command}
```

| direction | R@1, % (chance) | R@5 | R@10 | median rank | queries |
|---|---|---|---|---|---|
{lines}"""

ABLATION = """
## What makes the closed form retrieve ({size} pairs, validation)

Each part is left out of the chosen two-way kernel ridge, which scores {everything:.1f}%, or added alone to the plainest
solution, which scores {nothing:.1f}%. No search follows the change. Divisions: {divisions}.
`python studies/pair_ablation.py --size {size}`.

| part | left out, % | alone, % |
|---|---|---|
{lines}"""


def main(config: Config) -> None:
    """Read, write, print."""
    found, sizes = entries(config.recorded), size_entries(config.recorded)
    about = about_of(config.recorded)
    ablations = sorted(config.recorded.parent.glob("ablation-*.json"))
    claims = read_records(config.recorded.parent / "claims")
    shown = tabled(found, sizes)
    folder = config.recorded.parent
    others = sorted(folder.glob("data-*"))
    first = leaderboard(found, shown, about["commit"], others)
    last = gap_section(folder) + scorings_section(folder) + "".join(map(other_data, others))
    figure([each for each in found if each.regime in shown], config.docs / "results" / "pairs.png")
    size_figure(sizes, config.docs / "results" / "sizes.png")
    write_text(
        config.docs / "results.md",
        page(found, sizes, about, ablations, first, last + held_out(folder / "held-out.json")),
    )
    write_text(config.docs / "claims.md", claims_page(claims))
    print(json.dumps(headline(found) | count_verdicts(claims)))


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
