"""The command line of a study file: ``python studies/NAME.py COMMAND``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from mmvicreg.errors import show_messages_alone
from mmvicreg.studies.repeats import repeat, score
from mmvicreg.studies.results import results, table
from mmvicreg.studies.search import search
from mmvicreg.studies.selection import choose
from mmvicreg.studies.study import Study


@dataclass(frozen=True)
class StudyConfig:
    """Search, choose on validation scores, repeat with fresh seeds, score test data once, and make the tables."""

    command: Positional[Literal["search", "choose", "repeat", "score", "results", "all"]]
    """what to do next; all does every stage in this order, and each stage continues where it was interrupted"""
    out: Path
    """folder of the study"""
    methods: tuple[str, ...] = ()
    """only these methods; all if empty"""
    regimes: tuple[str, ...] = ()
    """only these regimes; all if empty"""
    workers: int = 1
    """processes that train at the same time, each on one thread"""
    unfinished: bool = False
    """choose among the trials there are, although the search is not finished; the number of trials is recorded"""


def run_study(study: Study, config: StudyConfig) -> None:
    """Do what ``config.command`` says. Raises what the stages raise."""
    only = {"methods": config.methods, "regimes": config.regimes}
    stages: dict[str, Callable[[], object]] = {
        "search": lambda: search(study, config.out, workers=config.workers, **only),
        "choose": lambda: choose(study, config.out, unfinished=config.unfinished, **only),
        "repeat": lambda: repeat(study, config.out, workers=config.workers, **only),
        "score": lambda: score(study, config.out, **only),
        "results": lambda: Console().print(table(study, results(study, config.out)), markup=False),
    }
    for name, stage in stages.items():
        if config.command in (name, "all"):
            stage()


def main(study: Study, *, out: str) -> None:
    """Read the command line and run; ``out`` is the default folder. The last line of a study file."""
    show_messages_alone()
    run_study(
        study,
        tyro.cli(StudyConfig, default=StudyConfig(tyro.MISSING, Path(out)), description=study.description),
    )
