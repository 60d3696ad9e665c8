"""Make docs/results.md and its figures again from the committed scorings, and print the headline ratios as JSON.

    python studies/results.py
    python studies/results.py --recorded studies/pairs --docs /tmp/results   # of a study of your own

It reads ``choices.json``, ``scorings.jsonl`` and the records of claims alone; nothing is trained and no test data is
read. Divisions of the same data are one regime: means are over divisions and seeds, ratios are to the best contrastive
method of the regime, which is taken by its *test* score, to the disadvantage of the others.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from claim_page import claims_page, count_verdicts
from claim_record import read_records

from mmvicreg.errors import show_messages_alone
from mmvicreg.files import write_text
from mmvicreg.randomness import generator
from mmvicreg.studies.folder import StudyFolder

HERE = Path(__file__).parent
RESAMPLES = 10_000
FAMILIES = ("contrastive", "per-branch regularized", "closed form", "closed form, then trained")


@dataclass(frozen=True)
class Config:
    """Where the recorded scorings lie, and where the page goes."""

    recorded: Path = HERE / "recorded" / "pairs"
    """folder with choices.json, scorings.jsonl and about.json; claims are read from the folder claims beside it"""
    docs: Path = HERE.parent / "docs"
    """folder of results.md and results/"""


@dataclass(frozen=True)
class Entry:
    """A method in a regime, over divisions and seeds. Scores are fractions."""

    method: str
    family: str
    regime: str
    score: float
    low: float
    high: float
    corrected: float
    """with the hubness correction"""
    validation: float
    ratio: float
    """to the best contrastive method; mean of the ratios of the divisions"""
    smallest_ratio: float
    seconds: float
    runs: int
    divisions: int


def without_division(regime: str) -> str:
    """The regime of all divisions: pairs-1000-split-2 is pairs-1000."""
    return re.sub(r"-split-\d+$", "", regime)


def entries(recorded: Path) -> list[Entry]:
    """Every method in every regime, best first. Raises MissingFileError without choices."""
    folder = StudyFolder(recorded)
    choices = folder.read_choices()
    scorings: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for line in folder.read_scorings():
        scorings[without_division(line["regime"])][line["method"]][line["regime"]].append(line)
    found = []
    for regime, methods in scorings.items():
        best = _best_contrastive(methods)
        mine = [_entry(name, regime, lines, best, choices) for name, lines in methods.items()]
        found += sorted(mine, key=lambda entry: -entry.score)
    return found


def _mean(lines: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([line["score"] for line in lines]))


def _best_contrastive(
    methods: Mapping[str, Mapping[str, list[dict[str, Any]]]],
) -> Mapping[str, list[dict[str, Any]]]:
    contrastive = [
        divisions
        for divisions in methods.values()
        if next(iter(divisions.values()))[0]["family"] == "contrastive"
    ]
    return max(contrastive, key=lambda divisions: np.mean([_mean(lines) for lines in divisions.values()]))


def _entry(
    method: str,
    regime: str,
    divisions: Mapping[str, list[dict[str, Any]]],
    best: Mapping[str, list[dict[str, Any]]],
    choices: Mapping[str, Any],
) -> Entry:
    lines = [line for each in divisions.values() for line in each]
    means = [_mean(each) for each in divisions.values()]
    ratios = [_mean(each) / _mean(best[name]) for name, each in divisions.items() if name in best]
    low, high = _interval([[line["score"] for line in each] for each in divisions.values()], method)
    return Entry(
        method=method,
        family=lines[0]["family"],
        regime=regime,
        score=float(np.mean(means)),
        low=low,
        high=high,
        corrected=float(np.mean([line["values"]["corrected"] for line in lines])),
        validation=float(np.mean([choices[f"{method}/{name}"]["validation"] for name in divisions])),
        ratio=float(np.mean(ratios)),
        smallest_ratio=min(ratios),
        seconds=float(np.median([line["seconds"] for line in lines])),
        runs=len(lines),
        divisions=len(divisions),
    )


def _interval(scores: Sequence[Sequence[float]], method: str) -> tuple[float, float]:
    """95% bootstrap interval of the mean over divisions and, within each, seeds."""
    random = generator("results", method)
    drawn = []
    for _ in range(RESAMPLES // 10):
        divisions = [scores[n] for n in random.integers(len(scores), size=len(scores))]
        drawn.append(np.mean([np.mean(random.choice(each, size=len(each))) for each in divisions]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def headline(found: Sequence[Entry]) -> dict[str, float | None]:
    """The ratio of each family's best method *by validation pairs* to the best contrastive method by test pairs; None
    where a regime was not run. ``started``: VICReg from the closed form."""

    def chosen(regime: str, *methods: str, family: str = "") -> float | None:
        mine = [
            entry
            for entry in found
            if entry.regime == regime and (entry.family == family or entry.method in methods)
        ]
        best = max(mine, key=lambda entry: entry.validation, default=None)
        return None if best is None else round(best.ratio, 3)

    return {
        f"{name}_ratio_{regime.removeprefix('pairs-')}": chosen(regime, *methods, family=family)
        for regime in ("pairs-1000", "pairs-all")
        for name, family, methods in (
            ("closed_form", "closed form", ()),
            ("trained", "per-branch regularized", ()),
            ("started", "", ("vicreg_from_solution",)),
        )
    }


def table(found: Sequence[Entry], regime: str) -> str:
    """A Markdown table of one regime. Scores in percent."""
    names = "method|family|test, % (95% interval)|ratio (smallest)|corrected, %|validation, %|seconds|runs"
    head = f"| {names.replace('|', ' | ')} |\n"
    lines = [
        f"| {each.method} | {each.family} | {100 * each.score:.1f} ({100 * each.low:.1f}–{100 * each.high:.1f}) | "
        f"{each.ratio:.2f} ({each.smallest_ratio:.2f}) | {100 * each.corrected:.1f} | {100 * each.validation:.1f} | "
        f"{each.seconds:.1f} | {each.runs} |\n"
        for each in found
        if each.regime == regime
    ]
    return head + "|---|---|---|---|---|---|---|---|\n" + "".join(lines)


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
        panel.set_yticks(range(len(mine)), [each.method for each in mine])
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


def page(
    found: Sequence[Entry],
    about: Mapping[str, str],
    ablations: Sequence[Path] = (),
) -> str:
    """docs/results.md."""
    parts = [TEXT.format(**about)]
    if any(each.family == FAMILIES[3] for each in found):
        parts.append(STARTED)
    for regime in dict.fromkeys(each.regime for each in found):
        divisions = max(each.divisions for each in found if each.regime == regime)
        parts.append(f"## {regime} ({divisions} division{'s' if divisions > 1 else ''})\n\n")
        parts.append(table(found, regime) + "\n")
    parts.append("![Test scores by method and regime](results/pairs.png)\n")
    return "".join([*parts, *map(ablation, ablations)])


TEXT = """# Results

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
its trials on top of that method's.

"""

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
    found = entries(config.recorded)
    about = json.loads((config.recorded / "about.json").read_text(encoding="utf-8"))
    ablations = sorted(config.recorded.parent.glob("ablation-*.json"))
    claims = read_records(config.recorded.parent / "claims")
    figure(found, config.docs / "results" / "pairs.png")
    write_text(config.docs / "results.md", page(found, about, ablations))
    write_text(config.docs / "claims.md", claims_page(claims))
    print(json.dumps(headline(found) | count_verdicts(claims)))


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
