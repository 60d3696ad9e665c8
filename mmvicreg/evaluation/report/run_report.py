"""The files that show a run: ``report.html`` and ``pictures/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from mmvicreg.evaluation.description import Description
from mmvicreg.evaluation.report import figures
from mmvicreg.evaluation.report.html import Report, write_report
from mmvicreg.evaluation.retrieval import RetrievalScores
from mmvicreg.runs.run import LOG, Run, read_log


def write_run_report(
    run: Run,
    *,
    retrieval: Mapping[str, Mapping[str, RetrievalScores]],
    descriptions: Mapping[str, Description],
    examples: Mapping[str, Mapping[str, list[figures.Example]]],
    folder: Path,
) -> Path:
    """Write the pictures and the page of a run into ``folder``; the page's path.

    All three are by split, then by direction or branch. A model without a log (an export) has no training curves.
    """
    log = read_log(run.folder) if (run.folder / LOG).is_file() else []
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    if log:
        figures.save(figures.loss_figure(log), pictures / "loss.png")
    for split, description in descriptions.items():
        ranks = {branch: found.effective_rank for branch, found in description.geometry.items()}
        spectrum = figures.spectrum_figure(description.spectra, ranks=ranks)
        figures.save(spectrum, pictures / f"{split}-spectrum.png")
        for direction, found in examples[split].items():
            figures.save(figures.examples_figure(found), pictures / f"{split}-{direction}.png")
    environment = run.folder / "environment.json"
    report = Report(
        title=run.folder.name,
        note=f"{len(log)} log lines, {run.step} steps.",
        config=run.config,
        environment=json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {},
        scores=retrieval,
        description=list(descriptions.values())[-1],
        log=log,
        examples={
            f"{split}: {direction}".replace("_", " "): found
            for split, by_direction in examples.items()
            for direction, found in by_direction.items()
        },
    )
    path = write_report(report, folder / "report.html")
    Console(stderr=True).print(f"report: {path}")
    return path
