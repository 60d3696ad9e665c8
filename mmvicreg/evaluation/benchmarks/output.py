"""What is written and printed of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mmvicreg.evaluation.benchmarks.benchmark import BenchmarkScores
from mmvicreg.evaluation.evaluate import retrieval_table
from mmvicreg.evaluation.summary import Summary, flatten
from mmvicreg.runs.run import Run


def summarize_benchmark(run: Run, scores: BenchmarkScores, *, settings: Mapping[str, Any]) -> Summary:
    """The summary: ``karpathy.image_to_text.recall_at_1``, ``sugarcrepe_swap_att.accuracy``, ..."""
    return Summary(
        source="evaluate",
        run=run.folder.name,
        step=run.step,
        scores=flatten(scores.to_json()),
        data=scores.sizes,
        settings=settings,
    )


def benchmark_tables(scores: BenchmarkScores) -> list[Table]:
    """Recall by direction, and accuracies by part, in percent."""
    tables = [retrieval_table(scores.retrieval)] if scores.retrieval else []
    if scores.accuracies:
        table = Table(title="hard negatives: right in % (chance in %)")
        for column in ("part", "score", "right", "cases"):
            table.add_column(column, justify="left" if column in ("part", "score") else "right")
        for part, found in scores.accuracies.items():
            for name in (name for name in found if f"{name}_chance" in found):
                right = f"{100 * found[name]:.1f} ({100 * found[f'{name}_chance']:.1f})"
                table.add_row(part, name.replace("_", " "), right, f"{scores.sizes[part]['cases']:,}")
        tables.append(table)
    return tables
