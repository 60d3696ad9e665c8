"""Run the trials of a study that are left, in several processes; every finished trial is kept in SQLite."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import optuna
from optuna.trial import TrialState

from mmvicreg.errors import InvalidValueError, MissingFileError, UserError
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.progress import bar
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.space import distributions, sampler
from mmvicreg.studies.study import SUMMARY, Study, Trial, mean_of

DONE = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Task:
    """One more trial of a method in a regime."""

    method: str
    regime: str


@dataclass(frozen=True)
class Finished:
    """What a trial gave: its validation score, or why it failed."""

    task: Task
    score: float | None
    reason: str


def search(
    study: Study, path: Path, *, methods: Sequence[str] = (), regimes: Sequence[str] = (), workers: int = 1
) -> list[Finished]:
    """Run what is left of the budgets and return it. A killed search continues: finished trials are not run again.

    ``methods`` and ``regimes`` restrict it; all if empty. Trials that were running when a search was killed count as
    not run. A trial that ends in a :class:`UserError` (a loss that is not finite, say) is a failed trial of the
    budget, with its reason; any other error, and a file that is missing, stops the search and is not counted. Raises
    InvalidValueError for fewer than one worker.
    """
    if workers < 1:
        raise InvalidValueError(f"workers is {workers}; expected 1 or more")
    folder = StudyFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tasks = [
        Task(method, regime)
        for method in methods or study.methods
        for regime in regimes or study.regimes
        for _ in range(left(study, folder, method, regime))
    ]
    # Methods take turns, so that an interrupted search has tried all of them about equally often.
    order = sorted(range(len(tasks)), key=lambda i: (_turn(tasks, i), i))
    return _run_all(study, folder, [tasks[i] for i in order], workers)


def left(study: Study, folder: StudyFolder, method: str, regime: str) -> int:
    """Trials of the budget that have not been run; those cut off by a kill are marked failed and not counted."""
    budget = study.method(method).trials
    kept = _storage(study, folder, method, regime)
    for trial in kept.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        kept.tell(trial.number, state=TrialState.PRUNED)
    return max(0, budget - len(kept.get_trials(deepcopy=False, states=DONE)))


def _turn(tasks: Sequence[Task], i: int) -> int:
    return sum(task == tasks[i] for task in tasks[:i])


def _storage(study: Study, folder: StudyFolder, method: str, regime: str) -> optuna.Study:
    return optuna.create_study(
        storage=folder.storage,
        study_name=f"{study.name}/{method}/{regime}",
        direction="maximize",
        load_if_exists=True,
    )


def _run_all(study: Study, folder: StudyFolder, tasks: Sequence[Task], workers: int) -> list[Finished]:
    finished: list[Finished] = []
    with bar("search", len(tasks), unit="trials") as advance:
        if workers == 1:
            for task in tasks:
                finished.append(run_trial(study, folder, task))
                advance(1, _note(finished[-1]))
            return finished
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting: set[Future[Finished]] = {pool.submit(run_trial, study, folder, task) for task in tasks}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for each in done:
                        finished.append(each.result())
                        advance(1, _note(finished[-1]))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return finished


def run_trial(study: Study, folder: StudyFolder, task: Task) -> Finished:
    """Propose settings, train, and record the validation score."""
    method = study.method(task.method)
    kept = _storage(study, folder, task.method, task.regime)
    number = len(kept.get_trials(deepcopy=False))
    # The proposal depends on what has finished; with one worker it is a function of the study alone.
    kept.sampler = sampler(
        seed=_seed(study.name, task.method, task.regime, number), startup_trials=study.startup_trials
    )
    if method.start:
        kept.enqueue_trial(dict(method.start), skip_if_exists=True)
    asked = kept.ask(distributions(method.space))
    out = folder.trial(task.method, task.regime, asked.number)
    trial = Trial(task.method, task.regime, dict(asked.params), study.search_seed, out)
    started = time.monotonic()
    try:
        method.train(trial)
        score = mean_of(study.metrics, read_summary(out / SUMMARY).scores, source=f"{out}/{SUMMARY}")
    except MissingFileError:  # no setting would help: the trial is not counted, and the search ends
        raise
    except UserError as error:
        asked.set_user_attr("reason", str(error))
        kept.tell(asked, state=TrialState.FAIL)
        return Finished(task, None, str(error))
    asked.set_user_attr("seconds", time.monotonic() - started)
    kept.tell(asked, score)
    return Finished(task, score, "")


def _seed(*key: str | int) -> int:
    return int.from_bytes(blake2b(" ".join(map(str, key)).encode(), digest_size=4).digest(), "little")


def _note(finished: Finished) -> str:
    score = f"failed: {finished.reason}" if finished.score is None else f"{finished.score:.4f}"
    return f"{finished.task.method} {finished.task.regime}: {score}"
