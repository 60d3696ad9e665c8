"""The files that show a run: ``report.html`` and ``pictures/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from mmvicreg.evaluation.report import curves, figures
from mmvicreg.evaluation.report.collect import collect_run, compare
from mmvicreg.evaluation.report.html import write_report
from mmvicreg.evaluation.report.page import RunReport, SplitReport
from mmvicreg.runs.run import LOG, Run, read_log


def describe_run(run: Run, splits: Mapping[str, SplitReport]) -> RunReport:
    """What a page shows of a run and its scored splits."""
    config = {**run.config, "objective": run.objective} if run.objective else run.config
    return collect_run(run.folder, config, splits=splits)


def write_run_report(
    run: Run, splits: Mapping[str, SplitReport], *, folder: Path, beside: Sequence[RunReport] = ()
) -> Path:
    """Write the pictures and the page of a run and its scored splits into ``folder``; the page's path.

    The page compares the run with those ``beside`` it. A model without a log (an export) has no training curves.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    if (run.folder / LOG).is_file():
        figures.save(curves.loss_figure(read_log(run.folder)), pictures / "loss.png")
    for split, found in splits.items():
        if found.description is not None:
            ranks = {branch: each.effective_rank for branch, each in found.description.geometry.items()}
            spectrum = figures.spectrum_figure(found.description.spectra, ranks=ranks)
            figures.save(spectrum, pictures / f"{split}-spectrum.png")
        for direction, examples in found.examples.items():
            figures.save(figures.examples_figure(examples), pictures / f"{split}-{direction}.png")
    path = write_report(compare([describe_run(run, splits), *beside]), folder / "report.html")
    Console(stderr=True).print(f"report: {path}")
    return path
