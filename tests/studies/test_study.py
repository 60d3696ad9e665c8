"""The study runner on real heads of small features: search, choice, repeats, one scoring of test pairs, tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pairs import write_features

from mmvicreg.errors import InvalidValueError, MissingFileError, UnknownNameError
from mmvicreg.studies.repeats import repeat, score
from mmvicreg.studies.results import results
from mmvicreg.studies.search import search
from mmvicreg.studies.selection import choose
from mmvicreg.studies.study import Method, Study, Trial

ROOT = Path(__file__).parents[2]
REGIME = "pairs-100-split-0"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    """The module studies/pairs.py, reading small features, with a budget of two trials."""
    folder = tmp_path_factory.mktemp("features")
    patch = pytest.MonkeyPatch()
    patch.setenv("MMVICREG_PAIRS", str(write_features(folder / "features.npz")))
    patch.setenv("MMVICREG_TRIALS", "2")
    patch.syspath_prepend(str(ROOT / "studies"))
    import pairs as module

    yield module
    patch.undo()


@pytest.fixture(scope="module")
def study(pairs) -> Study:
    """Two closed forms, two seeds: seconds in all."""
    methods = {name: pairs.STUDY.methods[name] for name in ("cca", "two_way_ridge")}
    return Study(
        name="small",
        description="Two closed forms.",
        methods=methods,
        regimes=(REGIME,),
        metrics=pairs.STUDY.metrics,
        test=pairs.STUDY.test,
        test_metrics=pairs.STUDY.test_metrics,
        seeds=(1, 2),
        baseline="cca",
    )


@pytest.mark.slow
def test_test_pairs_are_scored_once_after_the_choice_is_written(study: Study, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nothing has been chosen; run the 'choose' command first"):
        score(study, tmp_path)
    finished = search(study, tmp_path)
    assert [each.score is None for each in finished] == [False] * 4
    assert search(study, tmp_path) == []  # the budget is spent
    chosen = choose(study, tmp_path)
    assert chosen[f"cca/{REGIME}"]["validation"] == max(
        each.score for each in finished if each.task.method == "cca" and each.score is not None
    )
    with pytest.raises(MissingFileError, match=r"4 of 4 repeated runs are not trained.*run 'repeat' first"):
        score(study, tmp_path)
    assert repeat(study, tmp_path) == 4 and repeat(study, tmp_path) == 0
    assert len(score(study, tmp_path)) == 4
    assert score(study, tmp_path) == []  # no run is scored twice
    cells = {cell.method: cell for cell in results(study, tmp_path)}
    assert cells["cca"].ratio == 1.0 and cells["cca"].scorings == cells["cca"].seeds == 2
    lines = [json.loads(line) for line in (tmp_path / "scorings.jsonl").read_text().splitlines()]
    mine = [line["score"] for line in lines if line["method"] == "two_way_ridge"]
    assert cells["two_way_ridge"].mean == pytest.approx(sum(mine) / 2)
    assert 0.05 < cells["two_way_ridge"].mean <= 1
    assert (tmp_path / "results.png").stat().st_size > 5000


def test_the_first_trial_has_the_settings_to_start_from(study: Study, pairs, tmp_path: Path) -> None:
    first, second = search(study, tmp_path, methods=("cca",))
    assert first.score is not None and second.score is not None
    summaries = sorted(tmp_path.glob("search/cca/*/*/summary.json"))
    settings = [json.loads(path.read_text())["settings"] for path in summaries]
    start = dict(study.methods["cca"].start)
    assert start.keys() == study.methods["cca"].space.keys()
    assert [each == start for each in settings] == [True, False]


def test_a_choice_stays_once_its_test_score_is_known(study: Study, tmp_path: Path) -> None:
    search(study, tmp_path, methods=["cca"])
    choose(study, tmp_path, methods=["cca"])
    repeat(study, tmp_path, methods=["cca"])
    score(study, tmp_path, methods=["cca"])
    path = tmp_path / "choices.json"
    content = json.loads(path.read_text())
    content[f"cca/{REGIME}"]["settings"]["width"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidValueError, match="A choice stays after its test score is known"):
        choose(study, tmp_path, methods=["cca"])


def test_an_unfinished_search_is_refused_unless_recorded(study: Study, tmp_path: Path, pairs) -> None:
    cca = study.methods["cca"]
    longer = Study(
        name=study.name,
        description=study.description,
        methods={"cca": Method(cca.train, cca.space, 3, cca.family)},
        regimes=study.regimes,
        metrics=study.metrics,
        test=study.test,
        test_metrics=study.test_metrics,
    )
    search(study, tmp_path, methods=["cca"])
    with pytest.raises(InvalidValueError, match="1 of 3 trials are left"):
        choose(longer, tmp_path)
    assert choose(longer, tmp_path, unfinished=True)[f"cca/{REGIME}"]["trials"] == 2


@pytest.mark.slow
def test_every_method_of_the_comparison_trains_and_scores_above_chance(
    pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "batch": 64,
        "steps": 40,
        "width": 16,
        "hidden": 0,
        "image_map": "unit",
        "augment": True,
    }
    defaults = {"temperature": 0.1, "margin": 0.2, "variance": 25.0, "covariance": 1.0, "invariance": 5.0}
    defaults |= {"shape": 1.0, "sigreg": 0.05, "redundancy": 0.005, "infonce": 1.0, "landmarks": 60}
    defaults |= {"image_bandwidth": 1.0, "text_bandwidth": 1.0, "image_ridge": 0.1, "text_ridge": 0.1}
    defaults |= {"axis_power": 0.5, "target_ridge": 0.1, "target_power": 0.5, "concept_power": 0.0}
    solution = {"two_way_kernel_ridge/pairs-all-split-1": {"settings": {**shared, **defaults}}}
    (tmp_path / "choices.json").write_text(json.dumps(solution), encoding="utf-8")
    monkeypatch.setattr(pairs.pair_starts, "CHOICES", tmp_path)
    for name, method in pairs.STUDY.methods.items():
        trial = Trial(name, "pairs-all-split-1", {**shared, **defaults}, 1, tmp_path / name)
        assert set(method.space) <= set(trial.settings), name
        method.train(trial)
        found = pairs.STUDY.test(trial)
        # 6 concepts with about 12 names: a random order has a mean recall near 0.45.
        assert found["mean_recall"] > 0.55, (name, found)
        assert found["image_to_text_recall_at_1"] > 0.15, (name, found)


def test_without_features_the_search_ends_and_spends_no_trial(
    pairs, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MMVICREG_PAIRS", str(tmp_path / "none.npz"))
        with pytest.raises(
            MissingFileError, match=r"none.npz is missing; make it with: python studies/encode"
        ):
            search(study, tmp_path, methods=["cca"])
    pixels = tmp_path / "pixels.npz"
    np.savez(pixels, image=np.zeros((4, 1, 3, 8, 8), np.uint8))
    with monkeypatch.context() as patch:
        patch.setenv("MMVICREG_PAIRS", str(pixels))
        with pytest.raises(
            MissingFileError, match=r"pictures of shape \(4, 1, 3, 8, 8\), and 3 dimensions are"
        ):
            search(study, tmp_path, methods=["cca"])
    assert [each.score is None for each in search(study, tmp_path, methods=["cca"])] == [False, False]


def test_unknown_regimes_and_scores_are_named(pairs, study: Study, tmp_path: Path) -> None:
    from pair_features import parse_regime

    with pytest.raises(InvalidValueError, match="regime '10k'; expected a name such as pairs-1000-split-0"):
        parse_regime("10k")
    assert parse_regime("pairs-all-shuffled-0.4-split-2").shuffled == 0.4
    with pytest.raises(UnknownNameError, match="no method 'clip'; this study has cca, two_way_ridge"):
        study.method("clip")
    with pytest.raises(InvalidValueError, match="search_seed 1 is among the seeds"):
        Study("s", "", {}, (), (), pairs.test, (), search_seed=1, seeds=(1, 2))


@pytest.mark.nightly
def test_a_killed_search_of_two_workers_continues(pairs, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "studies" / "pairs.py"), "search", "--out", str(tmp_path)]
    command += ["--methods", "cca", "two_way_ridge", "--regimes", REGIME, "--workers", "2"]
    environment = {**os.environ, "MMVICREG_TRIALS": "6", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("search/*/*/*/summary.json"))) < 3:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)
    import optuna

    for method in ("cca", "two_way_ridge"):
        kept = optuna.load_study(
            study_name=f"pairs/{method}/{REGIME}", storage=f"sqlite:///{tmp_path / 'search.db'}"
        )
        complete = [each for each in kept.trials if each.state == optuna.trial.TrialState.COMPLETE]
        assert len(complete) == 6  # none lost, none run twice
