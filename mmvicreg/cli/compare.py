"""Runs side by side: which fields differ, what each scored, and their curves in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mmvicreg.cli.model_options import check_figure
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError, WrongOptionError

SCORES = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "effective_rank", "knn", "linear")
"""Last parts of the names of numbers worth a row of the table."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare runs: configuration, scores, curves."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN [RUN ...]")]
    """run directories"""
    out: str = "comparison.png"
    """picture of the curves to write; empty for none"""
    all_scores: bool = False
    """every number of summary.json, not only the common ones"""

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise WrongOptionError(
                f"found {len(self.runs)}, expected two runs or more: mmvicreg compare RUN RUN"
            )
        check_figure(self.out)


@dataclass(frozen=True)
class Comparison:
    """Rows by name, one value a run in the order of ``names``; None where a run has none."""

    names: tuple[str, ...]
    differences: dict[str, list[Any]]
    scores: dict[str, list[float | None]]


def compare_runs(folders: Sequence[str | Path], *, all_scores: bool = False) -> Comparison:
    """Read configurations, summaries and logs. Raises FileNotFoundError or ValueError with the next move."""
    from mmvicreg.runs.config import flatten
    from mmvicreg.runs.run import read_config

    if len(folders) < 2:
        raise InvalidValueError(
            f"a comparison needs two runs or more, found {len(folders)}: mmvicreg compare RUN RUN"
        )
    paths = [Path(folder) for folder in folders]
    saved = [read_config(path) for path in paths]
    configs = [flatten({**each["config"], "objective": each.get("objective", {})}) for each in saved]
    numbers = [_numbers(path, all_scores=all_scores) for path in paths]
    differences = {
        name: values
        for name, values in _rows(configs).items()
        if any(value != values[0] for value in values) and name not in ("out", "resume", "allow_change")
    }
    return Comparison(names_of(paths), differences, _rows(numbers))


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Folder names, longer where two are the same."""
    short = [path.resolve().name for path in paths]
    if len(set(short)) == len(short):
        return tuple(short)
    return tuple(f"{path.resolve().parent.name}·{path.resolve().name}" for path in paths)


def _rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for column in columns for name in column))
    return {name: [column.get(name) for column in columns] for name in names}


def _numbers(folder: Path, *, all_scores: bool) -> dict[str, float]:
    """What a run scored at its end, and where its log ended."""
    from mmvicreg.evaluation.summary import read_summary
    from mmvicreg.runs.run import LOG, read_log
    from mmvicreg.training.monitoring.logger import flat

    found: dict[str, float] = {}
    summary = folder / "summary.json"
    if summary.is_file():
        scores = {name: v for name, v in read_summary(summary).scores.items() if v is not None}
        found |= {name: value for name, value in scores.items() if all_scores or _common(name)}
    log = read_log(folder) if (folder / LOG).is_file() else []
    if log:
        found |= {"steps": float(log[-1]["step"]), "total": float(log[-1]["total"])}
        found |= flat(log[-1]["terms"], "term")
        probes = [line["validation"] for line in log if "validation" in line]
        found |= {
            f"validation/{name}": value for name, value in (probes or [{}])[-1].items() if _common(name)
        }
        speeds = sorted(line["samples_per_second"] for line in log if "samples_per_second" in line)
        if speeds:  # a solved run has no steps to time
            found["samples per second (median)"] = speeds[len(speeds) // 2]
    return found


def _common(name: str) -> bool:
    return name.replace("/", ".").rpartition(".")[2] in SCORES


def curves(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The logs of all runs merged into one log for ``figures.loss_figure``: one panel per metric, one line per run."""
    from mmvicreg.runs.run import read_log

    paths = [Path(folder) for folder in folders]
    lines = []
    for name, path in zip(names_of(paths), paths, strict=True):
        plain = name.replace("/", "·")
        for line in read_log(path):
            terms = {"total": line["total"], **line["terms"]}
            terms |= {key: value for key, value in line.get("validation", {}).items() if key.endswith("at_1")}
            wanted = {key: value for key, value in terms.items() if "chance" not in key}
            renamed = {f"{plain}/{key.replace('/', ' ')}": value for key, value in wanted.items()}
            lines.append({"step": line["step"], "total": float("nan"), "terms": renamed})
    return lines


def compare(config: CompareConfig) -> Output:
    """Tables of what differs and what was scored, and a picture of the curves."""
    found = compare_runs(config.runs, all_scores=config.all_scores)
    shown: list[Any] = []
    if found.differences:
        shown.append(_table("configuration: what differs", found.names, found.differences))
    else:
        shown.append("the configurations are the same")
    shown.append(_table("scores", found.names, found.scores))
    if config.out:
        from mmvicreg.evaluation.report.curves import loss_figure
        from mmvicreg.evaluation.report.figures import save

        shown.append(f"curves: {save(loss_figure(curves(config.runs)), config.out)}")
    return Output(asdict(found), tuple(shown))


def _table(title: str, names: Iterable[str], rows: Mapping[str, Sequence[Any]]) -> Any:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for name, values in rows.items():
        table.add_row(name, *[_shown(value) for value in values])
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
