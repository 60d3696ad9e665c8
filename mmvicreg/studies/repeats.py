"""Train the chosen settings with fresh seeds, and score each finished run on test data once."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.progress import bar
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.study import SUMMARY, Study, Trial, mean_of


def repeat(
    study: Study, path: Path, *, methods: Sequence[str] = (), regimes: Sequence[str] = (), workers: int = 1
) -> int:
    """Train every choice with every seed, unless its summary is there; the number of runs that were trained.

    Raises MissingFileError before anything was chosen.
    """
    folder = StudyFolder(path)
    runs = [run for run in _runs(study, folder, methods, regimes) if not (run[2].out / SUMMARY).is_file()]
    with bar("repeat", len(runs), unit="runs") as advance:
        if workers == 1:
            for method, _, trial in runs:
                train(study, method, trial)
                advance(1, str(trial.out))
            return len(runs)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting = [pool.submit(train, study, method, trial) for method, _, trial in runs]
            for each, (_, _, trial) in zip(waiting, runs, strict=True):
                each.result()
                advance(1, str(trial.out))
    return len(runs)


def train(study: Study, method: str, trial: Trial) -> None:
    """One run; the seconds it took are kept beside its summary."""
    started = time.monotonic()
    study.method(method).train(trial)
    (trial.out / "seconds.json").write_text(json.dumps(time.monotonic() - started))


def score(
    study: Study, path: Path, *, methods: Sequence[str] = (), regimes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Score every repeated run on test data, once: a line of scorings.jsonl each. The lines that were added.

    Refuses to start while a choice or a repeated run is missing (MissingFileError). Runs that have a line are left
    out; a run whose settings are not those of the choice is refused (InvalidValueError).
    """
    folder = StudyFolder(path)
    known = {(line["method"], line["regime"], line["seed"]) for line in folder.read_scorings()}
    runs = _runs(study, folder, methods, regimes)
    missing = [str(trial.out) for _, _, trial in runs if not (trial.out / SUMMARY).is_file()]
    if missing:
        raise MissingFileError(
            f"{len(missing)} of {len(runs)} repeated runs are not trained, such as {missing[0]}; run 'repeat' first"
        )
    added = []
    waiting = [run for run in runs if (run[0], run[1], run[2].seed) not in known]
    with bar("score", len(waiting), unit="runs") as advance:
        for method, regime, trial in waiting:
            line = _scored(study, method, regime, trial)
            with open(folder.scorings, "a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            added.append(line)
            advance(1, f"{method} {regime}")
    return added


def _scored(study: Study, method: str, regime: str, trial: Trial) -> dict[str, Any]:
    values = study.test(trial)
    seconds = trial.out / "seconds.json"
    return {
        "method": method,
        "family": study.method(method).family,
        "regime": regime,
        "seed": trial.seed,
        "settings": dict(trial.settings),
        "score": mean_of(study.test_metrics, values, source=f"test scores of {trial.out}"),
        "values": dict(values),
        "seconds": json.loads(seconds.read_text(encoding="utf-8")) if seconds.is_file() else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _runs(
    study: Study, folder: StudyFolder, methods: Sequence[str], regimes: Sequence[str]
) -> list[tuple[str, str, Trial]]:
    choices = folder.read_choices()
    runs = []
    for method in methods or study.methods:
        for regime in regimes or study.regimes:
            name = f"{method}/{regime}"
            if name not in choices:
                raise InvalidValueError(
                    f"{name} has no choice in {folder.choices}; run 'choose' for it, or name --methods and --regimes"
                )
            settings = choices[name]["settings"]
            runs += [
                (method, regime, Trial(method, regime, settings, seed, folder.repeat(method, regime, seed)))
                for seed in study.seeds
            ]
    return runs
