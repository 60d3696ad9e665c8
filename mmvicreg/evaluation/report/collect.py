"""Gather what a run directory holds into the parts of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmvicreg.evaluation.report.diagnosis import diagnose
from mmvicreg.evaluation.report.figures import Example
from mmvicreg.evaluation.report.page import Report, RunReport, SplitReport
from mmvicreg.runs.config import flatten
from mmvicreg.runs.run import EVENTS, LOG, read_log

COUNTS = "data.json"
UNINTERESTING = ("class", "out", "resume", "allow_change")
"""Settings that differ between any two runs and explain nothing."""


def collect_run(
    folder: Path,
    config: Mapping[str, Any],
    *,
    splits: Mapping[str, SplitReport],
    samples: Sequence[Example] = (),
) -> RunReport:
    """The report of one run: its files, what was scored, and a diagnosis of both."""
    log = read_log(folder) if (folder / LOG).is_file() else []
    events, counts = _lines(folder / EVENTS), _object(folder / COUNTS)
    environment = _object(folder / "environment.json")
    descriptions = {name: each.description for name, each in splits.items() if each.description is not None}
    return RunReport(
        name=folder.name,
        note=f"{log[-1]['step']:,} steps, {len(log):,} log lines." if log else "",
        facts=facts_of(config, environment),
        config=config,
        environment=environment,
        log=log,
        events=events,
        counts=counts,
        samples=samples,
        splits=splits,
        findings=diagnose(
            scores={name: each.scores for name, each in splits.items()},
            descriptions=descriptions,
            log=log,
            events=events,
            counts=counts,
        ),
    )


def facts_of(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, str]:
    """What was run, in a few lines: objective, branches, data, size, date and machine; what is unknown is left out."""
    objective = config.get("objective", {})
    alignments = [f"{_short(each)} of {pair}" for pair, each in objective.get("alignments", {}).items()]
    regularizers = [f"{_short(each)} on {name}" for name, each in objective.get("regularizers", {}).items()]
    branches = {
        name: f"{each['encoder']}{' (frozen)' if each.get('frozen') else ''}"
        for name, each in config.items()
        if isinstance(each, Mapping) and isinstance(each.get("encoder"), str)
    }
    found = {
        "objective": ", ".join([*alignments, *regularizers]),
        **{f"{name} branch": text for name, text in branches.items()},
        "training shards": str(config.get("train", "")),
        "batch size": str(config.get("batch_size", "")),
        "epochs": f"{config['epochs']:g}" if isinstance(config.get("epochs"), int | float) else "",
        "seed": str(config.get("seed", "")),
        "begun": str(environment.get("time", "")).replace("T", " "),
        "command": " ".join(map(str, environment.get("command", []))),
        "machine": ", ".join(map(str, environment.get("gpus", []))) or _cpus(environment),
    }
    return {name: text for name, text in found.items() if text}


def _short(described: Any) -> str:
    """The class of a part of an objective with its weights: ``VICReg (variance 25, covariance 1)``."""
    if not isinstance(described, Mapping):
        return str(described)
    name = str(described.get("class", "")).rpartition(":")[2]
    weights = [
        f"{key} {value:g}" for key, value in described.items() if isinstance(value, float) and value >= 0.01
    ]
    return f"{name} ({', '.join(weights)})" if weights else name


def _cpus(environment: Mapping[str, Any]) -> str:
    return f"{environment['cpus']} CPU cores" if environment.get("cpus") else ""


def compare(runs: Sequence[RunReport]) -> Report:
    """One page of several runs, or of one; settings that differ between them come first."""
    flat = [flatten(dict(run.config)) for run in runs]
    names = dict.fromkeys(name for each in flat for name in each)
    differences = {
        name: [each.get(name) for each in flat]
        for name in names
        if name.rpartition(".")[2] not in UNINTERESTING
        and any(each.get(name) != flat[0].get(name) for each in flat)
    }
    shared = {name: values for name, values in differences.items() if all(name in each for each in flat)}
    others = {name: values for name, values in differences.items() if name not in shared}
    title = runs[0].name if len(runs) == 1 else " and ".join(run.name for run in runs)
    return Report(title, runs, shared, others)


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSON-lines file; a last line that a kill cut off is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").split("\n"):  # keys and captions may hold U+2028
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
