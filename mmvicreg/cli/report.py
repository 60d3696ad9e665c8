"""``mmvicreg report``: one HTML page about a run, or several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmvicreg.cli.model_options import ModelOptions, named_splits
from mmvicreg.cli.output import Output
from mmvicreg.errors import WrongOptionError

if TYPE_CHECKING:
    from mmvicreg.evaluation.report.page import RunReport


@dataclass(frozen=True)
class ReportConfig(ModelOptions):
    """Write one self-contained HTML page: diagnosis, scores, examples, hubs, curves, geometry, configuration."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """run directories; several are shown side by side, with the settings that differ first"""
    data: tuple[str, ...] = ()
    """held-out shards to score and show examples of, each NAME=SHARDS or SHARDS; curves and settings alone if empty"""
    out: str = ""
    """file to write; RUN/report.html of the first run if empty"""
    samples: int = 6
    """training samples to show"""

    def __post_init__(self) -> None:
        if not self.runs:
            raise WrongOptionError("no run to report on: mmvicreg report RUN [RUN ...]")
        named_splits(self.data)


def report(config: ReportConfig) -> Output:
    """Score what was given, gather the files of every run, and write the page."""
    from mmvicreg.evaluation.report.collect import compare
    from mmvicreg.evaluation.report.html import write_report

    splits = named_splits(config.data)
    runs = [_collect(config, source, splits) for source in config.runs]
    out = Path(config.out) if config.out else Path(config.runs[0]) / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    path = write_report(compare(runs), out)
    findings = {run.name: [f"{each.level}: {each.text}" for each in run.findings] for run in runs}
    lines = [line for found in findings.values() for line in found]
    return Output({"written": str(path), "findings": findings}, (*lines, f"written: {path}"))


def _collect(config: ReportConfig, source: str, splits: dict[str, str]) -> RunReport:
    from mmvicreg.evaluation.evaluate import score_splits, split_reports
    from mmvicreg.evaluation.report.collect import collect_run
    from mmvicreg.evaluation.report.examples import training_samples

    run = config.load(source)
    scores = (
        score_splits(run, splits, device=config.device, threads=config.threads, examples=6) if splits else {}
    )
    train = str(run.config.get("train", ""))
    readers = {name: modality.reader() for name, modality in run.modalities.items()}
    samples = training_samples(train, readers, count=config.samples) if train and config.samples else ()
    settings = {**run.config, "objective": run.objective} if run.objective else run.config
    return collect_run(run.folder, settings, splits=split_reports(scores), samples=samples)
