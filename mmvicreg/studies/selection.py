"""Choose the settings of every method on validation scores, and write the choice down before any test score exists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import write_json
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.search import left
from mmvicreg.studies.study import Study


def choose(
    study: Study,
    path: Path,
    *,
    methods: Sequence[str] = (),
    regimes: Sequence[str] = (),
    unfinished: bool = False,
) -> dict[str, dict[str, Any]]:
    """The best trial of every method in every regime, written to choices.json as {"method/regime": choice}.

    A search that is not finished is refused unless ``unfinished``; then the choice says how many trials it saw. A
    choice whose test score exists is never changed: InvalidValueError.
    """
    folder = StudyFolder(path)
    choices = folder.read_choices() if folder.choices.is_file() else {}
    scored = {f"{line['method']}/{line['regime']}" for line in folder.read_scorings()}
    for method in methods or study.methods:
        for regime in regimes or study.regimes:
            name = f"{method}/{regime}"
            missing = left(study, folder, method, regime)
            if missing and not unfinished:
                raise InvalidValueError(
                    f"{name}: {missing} of {study.method(method).trials} trials are left; run 'search' to the end, or "
                    "choose with --unfinished, which is recorded"
                )
            best = _best(study, folder, method, regime)
            if name in scored and choices.get(name, {}).get("settings") != best["settings"]:
                raise InvalidValueError(
                    f"{name} was scored on test data with {choices[name]['settings']}; the best trial is now "
                    f"{best['settings']}. A choice stays after its test score is known: start a new study"
                )
            choices[name] = best
    write_json(folder.choices, choices)
    return choices


def _best(study: Study, folder: StudyFolder, method: str, regime: str) -> dict[str, Any]:
    kept = optuna.load_study(storage=folder.storage, study_name=f"{study.name}/{method}/{regime}")
    complete = kept.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    failed = kept.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    if not complete:
        reasons = (
            "; ".join(sorted({str(each.user_attrs.get("reason", "")) for each in failed})[:3])
            or "none was run"
        )
        raise InvalidValueError(f"{method}/{regime}: no trial has a validation score ({reasons})")
    # The first of equal scores: the choice does not depend on how the storage orders them.
    best = max(complete, key=lambda each: (each.value, -each.number))
    return {
        "settings": best.params,
        "validation": best.value,
        "trial": best.number,
        "trials": len(complete),
        "failed": len(failed),
        "seconds": best.user_attrs.get("seconds"),
        "search_seconds": sum(each.user_attrs.get("seconds", 0.0) for each in complete),
    }
