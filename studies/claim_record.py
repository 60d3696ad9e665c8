"""What a paper claims, what was measured here, and a verdict by a rule that was written down before the run.

A script ``studies/claims/NAME.py`` declares its claims, measures figures (one value a seed) and calls
:func:`run_claims`, which judges them, writes ``studies/recorded/claims/NAME.json`` and prints a table.
``studies/results.py`` reads the records.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from mmvicreg.errors import InvalidValueError, show_messages_alone
from mmvicreg.files import write_text

STUDIES = Path(__file__).parent
RECORDED = STUDIES / "recorded" / "claims"
Verdict = Literal["reproduced", "not reproduced", "differs"]
Figures = Mapping[str, Sequence[float]]
"""Measured figures by name, one value a seed; those of one claim."""


@dataclass(frozen=True)
class Comparison:
    """``left`` against ``times`` x ``right`` + ``plus``, of means over seeds; without ``right``, against ``plus``."""

    left: str
    relation: Literal[">=", "<="]
    right: str | None = None
    times: float = 1.0
    plus: float = 0.0

    def __str__(self) -> str:
        relation = {">=": "≥", "<=": "≤"}[self.relation]
        if self.right is None:
            return f"{self.left} {relation} {self.plus:g}"
        factor = "" if self.times == 1 else f"{self.times:g} × "
        offset = f" {'+' if self.plus > 0 else '−'} {abs(self.plus):g}" if self.plus else ""
        return f"{self.left} {relation} {factor}{self.right}{offset}"

    def holds(self, figures: Figures) -> bool:
        """Whether the means compare so. Raises InvalidValueError where a figure is missing."""
        names = [self.left] if self.right is None else [self.left, self.right]
        if missing := [name for name in names if not figures.get(name)]:
            raise InvalidValueError(f"no figure {missing}; the script measured {sorted(figures)}")
        bound = self.plus + (0.0 if self.right is None else self.times * mean(figures[self.right]))
        left = mean(figures[self.left])
        return left >= bound if self.relation == ">=" else left <= bound


@dataclass(frozen=True)
class Claim:
    """A statement of a paper. Reproduced if every comparison of ``rule`` holds, not reproduced if none does, and it
    differs if only some do."""

    name: str
    """unique in its script"""
    source: str
    """the paper, and its table or figure"""
    statement: str
    paper: str
    """the paper's own figures; "none" where it gives none"""
    rule: tuple[Comparison, ...]
    setting: str = ""
    """ours, where it is not the paper's: data, sizes"""

    def names(self) -> list[str]:
        """The figures that the rule compares, each once."""
        both = [name for each in self.rule for name in (each.left, each.right) if name is not None]
        return list(dict.fromkeys(both))

    def named(self, figures: Figures, *also: str) -> Figures:
        """Of all figures those that the rule compares, and others that a reader wants beside them."""
        return {name: figures[name] for name in dict.fromkeys((*self.names(), *also))}

    def verdict(self, figures: Figures) -> Verdict:
        """By the rule alone."""
        held = [comparison.holds(figures) for comparison in self.rule]
        return "reproduced" if all(held) else "differs" if any(held) else "not reproduced"


@dataclass(frozen=True)
class Judged:
    """A claim as it is recorded. ``figures``: one value a seed; ``held``: which comparisons of the rule hold."""

    name: str
    source: str
    statement: str
    paper: str
    setting: str
    rule: list[str]
    held: list[bool]
    figures: dict[str, list[float]]
    verdict: Verdict

    def checks(self) -> list[str]:
        """Each comparison of the rule, and whether it holds."""
        return [f"{text}: {'yes' if held else 'no'}" for text, held in zip(self.rule, self.held, strict=True)]

    def ours(self) -> str:
        """Mean of each figure, and from the smallest to the largest seed where there are several."""
        return "; ".join(f"{name} {_shown(values)}" for name, values in self.figures.items())


@dataclass(frozen=True)
class Record:
    """The claims of one script, and how they came to be."""

    script: str
    command: str
    commit: str
    date: str
    hardware: str
    seconds: float
    claims: list[Judged]


@dataclass(frozen=True)
class Config:
    """The command line of every script of claims."""

    out: Path | None = None
    """file to write; studies/recorded/claims/NAME.json if absent, and none with --tiny"""
    seeds: int = 3
    """seeds 0, 1, ..."""
    tiny: bool = False
    """only the claims that take seconds, with the settings and the first seed of the record"""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InvalidValueError(f"--seeds {self.seeds}: expected 1 or more")

    def numbers(self) -> range:
        """The seeds."""
        return range(1 if self.tiny else self.seeds)


Measure = Callable[[Config], Mapping[str, Figures]]
"""Figures by the name of a claim; with ``tiny`` of some claims only."""


def main(
    script: str,
    claims: Sequence[Claim],
    measure: Measure,
    *,
    spent: Callable[[Config], float] = lambda config: 0.0,
) -> None:
    """Read the command line and run; see :func:`run_claims`. The last line of a script of claims."""
    show_messages_alone()
    config = tyro.cli(Config)
    run_claims(script, claims, measure, config, spent=spent(config))


def run_claims(
    script: str, claims: Sequence[Claim], measure: Measure, config: Config, *, spent: float = 0.0
) -> Record:
    """Measure, judge, write, print: a table, then one JSON line with the verdict of each claim.

    ``script``: ``__file__`` of the caller. ``spent``: seconds of processor time of an earlier, interrupted run that
    ``measure`` continues. Raises InvalidValueError where a whole run leaves a claim out.
    """
    started = time.process_time()
    found = measure(config)
    seconds = spent + time.process_time() - started
    if not config.tiny and (missing := [claim.name for claim in claims if claim.name not in found]):
        raise InvalidValueError(f"{script} measured nothing for {missing}; every claim needs figures")
    judged = [judge(claim, found[claim.name]) for claim in claims if claim.name in found]
    path = Path(script)
    record = Record(
        script=path.stem,
        command=" ".join(["python", f"studies/claims/{path.name}", *_arguments(config)]),
        commit=checked_out_commit(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        hardware=_hardware(),
        seconds=round(seconds, 1),
        claims=judged,
    )
    out = config.out or (None if config.tiny else RECORDED / f"{path.stem}.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")
    _show(record)
    print(json.dumps({claim.name: claim.verdict for claim in judged}))
    return record


def judge(claim: Claim, figures: Figures) -> Judged:
    """A claim beside its figures, rounded to five digits."""
    return Judged(
        name=claim.name,
        source=claim.source,
        statement=claim.statement,
        paper=claim.paper,
        setting=claim.setting,
        rule=[str(comparison) for comparison in claim.rule],
        held=[comparison.holds(figures) for comparison in claim.rule],
        figures={name: [float(f"{value:.5g}") for value in values] for name, values in figures.items()},
        verdict=claim.verdict(figures),
    )


def read_records(folder: Path = RECORDED) -> list[Record]:
    """The records of every script, by name of script; none without the folder."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found.append(Record(**{**content, "claims": [Judged(**each) for each in content["claims"]]}))
    return found


def _shown(values: Sequence[float]) -> str:
    smallest, largest = f"{min(values):.3g}", f"{max(values):.3g}"
    return f"{mean(values):.3g}" if smallest == largest else f"{mean(values):.3g} ({smallest} to {largest})"


def _arguments(config: Config) -> list[str]:
    seeds = [] if config.seeds == Config().seeds else [f"--seeds {config.seeds}"]
    return [*seeds, *(["--tiny"] if config.tiny else [])]


def checked_out_commit() -> str:
    """The commit that is checked out; "unknown" outside of a repository."""
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=STUDIES, capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def _hardware() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return f"{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__.partition('+')[0]}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else sys.platform


def _show(record: Record) -> None:
    table = Table(title=f"{record.script}: claims of the papers", show_lines=True)
    for name in ("claim", "paper's figures", "ours", "rule", "verdict"):
        table.add_column(name)
    for claim in record.claims:
        rule = "\n".join(claim.checks())
        table.add_row(f"{claim.name}\n{claim.statement}", claim.paper, claim.ours(), rule, claim.verdict)
    Console().print(table)
