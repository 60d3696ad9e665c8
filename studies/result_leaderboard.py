"""The leaderboard that opens docs/results.md, and the sections on studies of other data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from result_entries import FAMILIES, Entry, entries


def table(found: Sequence[Entry], regime: str) -> str:
    """A Markdown table of one regime. Scores in percent."""
    names = "method|family|test, % (95% interval)|ratio (smallest)|corrected, %|validation, %|seconds|runs"
    most = max((each.divisions for each in found if each.regime == regime), default=0)
    head = f"| {names.replace('|', ' | ')} |\n"
    lines = [
        f"| {each.method}{fewer(each, most)} | {each.family} | "
        f"{100 * each.score:.1f} ({100 * each.low:.1f}–{100 * each.high:.1f}) | "
        f"{each.ratio:.2f} ({each.smallest_ratio:.2f}) | {100 * each.corrected:.1f} | {100 * each.validation:.1f} | "
        f"{each.seconds:.1f} | {each.runs} |\n"
        for each in found
        if each.regime == regime
    ]
    return head + "|---|---|---|---|---|---|---|---|\n" + "".join(lines)


def fewer(entry: Entry, most: int) -> str:
    """A mark of a method that ran in fewer divisions than others of its table."""
    return "" if entry.divisions == most else f" ({entry.divisions} of {most} divisions)"


def best_of(found: Sequence[Entry], regime: str, *families: str) -> list[Entry]:
    """The method of each family with the best *validation* score, of those that ran in the most divisions."""
    chosen = []
    for family in families:
        mine = [each for each in found if each.regime == regime and each.family == family]
        most = max((each.divisions for each in mine), default=0)
        whole = [each for each in mine if each.divisions == most]
        chosen += sorted(whole, key=lambda each: -each.validation)[:1]
    return sorted(chosen, key=lambda each: -each.score)


def leaderboard(found: Sequence[Entry], regimes: Sequence[str], commit: str, others: Sequence[Path]) -> str:
    """The best of each family in the ``regimes`` and in each folder of ``others``, which has its own about.json."""
    rows = [(regime, commit, each) for regime in regimes for each in best_of(found, regime, *FAMILIES)]
    for folder in others:
        about, mine = about_of(folder), entries(folder)
        theirs = sorted({each.regime for each in mine})
        for regime in theirs:
            name = about["title"] + (f", {regime}" if len(theirs) > 1 else "")
            rows += [(name, about["commit"], each) for each in best_of(mine, regime, *FAMILIES)]
    lines = [
        f"| {data} | {each.method} | {each.family} | {100 * each.score:.1f} | {each.ratio:.2f} | {each.seconds:.0f} | "
        f"{each.divisions} x {each.runs // each.divisions} | {each.date} | {commit} |\n"
        for data, commit, each in rows
    ]
    return LEADERBOARD.format(lines="".join(lines))


def other_data(folder: Path) -> str:
    """A section on a study of its own: a table for each regime."""
    found = entries(folder)
    regimes = sorted({each.regime for each in found})
    tables = [(f"{regime}\n\n" if len(regimes) > 1 else "") + table(found, regime) for regime in regimes]
    return OTHER.format(**about_of(folder), tables="\n".join(tables))


def about_of(folder: Path) -> Mapping[str, str]:
    """What is said about a recorded study."""
    about: Mapping[str, str] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return about


LEADERBOARD = """## Leaderboard

Of each family the method with the best validation score. Test: mean of recall at 1, 5 and 10 both ways, percent.
Ratio: to the contrastive method with the best test score. Seconds: of one busy core for one run, to which energy is
proportional.

| data | method | family | test | ratio | seconds | divisions x seeds | scored | commit |
|---|---|---|---|---|---|---|---|---|
{lines}
To add yours: run a study ([how](studies.md)), which writes its choices before it scores test data; put its
`choices.json` and `scorings.jsonl` into `studies/recorded/data-NAME`, with an `about.json` of a title, a text, the
command and the commit; and run `python studies/results.py`.

"""

OTHER = """
## {title}

{text} Commit {commit}.

<!-- not run: it takes minutes to hours -->
```bash
{command}
```

{tables}"""
