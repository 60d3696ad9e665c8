"""A solved run is a run: it is read back, scored, embedded, continued and trained from as others are."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from paired_features import correlated, plain_spaces
from safetensors.torch import load_file

import mmvicreg as mm
from mmvicreg.branches.head import LinearHead, build, describe
from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.evaluation.evaluate import score_splits
from mmvicreg.solvers.solve import RESULT
from mmvicreg.solvers.statistics.pairing import PairedRows, count_moments

RECIPE = Path(toy.__file__)
GRID = mm.Grid(
    search="descent", ridge=(0.1, 1.0), axis_power=(0.5,), width=(4, 8), bandwidth=(1.0,), features=32
)
OBJECTIVES: dict[str, Callable[[toy.Config], mm.Objective]] = {
    "sigreg": toy.objective,
    "vicreg": lambda config: mm.Objective(mm.Invariance(25.0), {name: mm.VICReg() for name in "ab"}),
    "visreg": lambda config: mm.Objective(mm.Invariance(25.0), {name: mm.VISReg() for name in "ab"}),
    "infonce": lambda config: mm.Objective(mm.InfoNCE(), {}),
    "sigmoid": lambda config: mm.Objective(mm.Sigmoid(), {}),
    "barlow twins": lambda config: mm.Objective(mm.BarlowTwins(), {}),
    "prediction": lambda config: mm.Objective(
        mm.Prediction(widths=(8, 8)), {name: mm.SIGReg() for name in "ab"}
    ),
}
"""Every kind of training that may start from a solved run."""


@dataclass(frozen=True)
class Config(mm.SolveConfig):
    """Two modalities a and b of the toy recipe, their encoders frozen."""

    a: toy.Numbers = toy.Numbers("a.npy", frozen=True, dropout=0.0)
    b: toy.Numbers = toy.Numbers("b.npy", frozen=True, dropout=0.0)
    grid: mm.Grid = field(default_factory=lambda: GRID)
    threads: int = 1
    cpu: bool = True


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("shards"), missing=7)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("held_out"), shards=1, seed=0, missing=0)


def config(shards: str, held_out: str, out: Path) -> Config:
    torch.manual_seed(0)  # of the toy encoders' weights
    return Config(train=shards, validation=held_out, out=str(out))


def test_a_solved_run_is_read_back_and_finds_the_matching_items(
    shards: str, held_out: str, tmp_path: Path
) -> None:
    solved = mm.solve(config(shards, held_out, tmp_path / "run"))
    again = mm.load(tmp_path / "run", recipe=RECIPE)
    x = torch.randn(5, toy.WIDTH)
    torch.testing.assert_close(again.model.branch("a")(x).z, solved.model.branch("a")(x).z, rtol=0, atol=0)
    scores = score_splits(again, {"held_out": held_out}, device="cpu")["held_out"].retrieval["a_to_b"]
    assert scores.recall[1] > 10 * scores.chance[1]
    result = json.loads((tmp_path / "run" / RESULT).read_text())
    assert 0 < result["settings_compared"] <= 2 * 2 * 2 and result["solve_seconds"] > 0
    assert result["validation_mean_recall"] > 0.5


def test_a_descent_over_ridges_finds_what_the_whole_grid_finds(
    shards: str, held_out: str, tmp_path: Path
) -> None:
    wider = replace(GRID, ridge=(0.01, 0.1, 1.0, 10.0), width=())
    results = {}
    for search in ("descent", "all"):
        grid = replace(wider, search=search)
        mm.solve(replace(config(shards, held_out, tmp_path / search), grid=grid))
        results[search] = json.loads((tmp_path / search / RESULT).read_text())
    assert results["all"]["settings_compared"] == 16 > results["descent"]["settings_compared"]
    scores = [results[search]["validation_mean_recall"] for search in ("all", "descent")]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_ridges_of_a_regression_are_chosen_without_validation_data(shards: str, tmp_path: Path) -> None:
    settings = replace(
        config(shards, "", tmp_path / "run"), solver=mm.Ridge(), grid=mm.Grid(ridge=(1e-3, 1e6))
    )
    mm.solve(settings)
    result = json.loads((tmp_path / "run" / RESULT).read_text())
    assert result["solver"]["branches"] == {"a": 1e-3, "b": 1e-3}


def test_a_finished_run_is_not_solved_again_and_another_configuration_is_refused(
    shards: str, held_out: str, tmp_path: Path
) -> None:
    first = config(shards, held_out, tmp_path / "run")
    mm.solve(first)
    before = (tmp_path / "run" / RESULT).stat().st_mtime_ns
    mm.solve(first)
    assert (tmp_path / "run" / RESULT).stat().st_mtime_ns == before
    with pytest.raises(InvalidValueError, match=r"solver\.width: 384 -> 2"):
        mm.solve(replace(first, solver=mm.CCA(width=2)))


@pytest.mark.parametrize(
    "solver",
    [mm.PLS(), mm.Procrustes(), mm.Ridge(), mm.MaxVar(), mm.CCA()],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("kernel", ["none", "nystrom", "fourier"])
def test_every_solver_aligns_behind_every_kind_of_feature_map(
    solver: mm.CCA, kernel: str, shards: str, held_out: str, tmp_path: Path
) -> None:
    maps = {"a": mm.FeatureMap(("standardize",), kernel, 40), "b": mm.FeatureMap(("signed_root", "unit"))}  # type: ignore[arg-type]
    run = mm.solve(replace(config(shards, held_out, tmp_path / "run"), solver=solver, features=maps))
    scores = score_splits(run, {"held_out": held_out}, device="cpu")["held_out"].retrieval["a_to_b"]
    assert scores.recall[1] > 3 * scores.chance[1]
    projector = run.model.branch("a").projector
    made = build(describe(projector), source=tmp_path, stored=1 << 20)
    assert describe(made) == describe(projector)


@pytest.mark.parametrize("start", OBJECTIVES.values(), ids=OBJECTIVES)
def test_training_starts_from_a_solved_run_and_ends_in_a_run_with_its_heads(
    shards: str, held_out: str, tmp_path: Path, start: Callable[[toy.Config], mm.Objective]
) -> None:
    solved = mm.solve(replace(config(shards, held_out, tmp_path / "solved"), grid=replace(GRID, width=(8,))))
    started = toy.Config(train=shards, out=str(tmp_path / "run"), init=str(tmp_path / "solved"), epochs=0.2)
    a, b = solved.modalities["a"], solved.modalities["b"]
    assert isinstance(a, toy.Numbers) and isinstance(b, toy.Numbers)
    started = replace(started, a=a, b=b)
    mm.train(replace(started, optimizer=mm.OptimizerConfig(learning_rate=0.0)), start)
    again = mm.load(tmp_path / "run", recipe=RECIPE)
    assert isinstance(again.model.branch("a").projector, LinearHead)
    x = torch.randn(5, toy.WIDTH)
    torch.testing.assert_close(again.model.branch("a")(x).z, solved.model.branch("a")(x).z)


def test_a_trained_run_is_solved_on_its_own_representations(
    shards: str, held_out: str, tmp_path: Path
) -> None:
    trained = mm.train(toy.Config(train=shards, out=str(tmp_path / "trained"), epochs=0.5), toy.objective)
    run = mm.solve_run(
        mm.SolveConfig(train=shards, validation=held_out, out=str(tmp_path / "run"), grid=GRID), trained
    )
    x = torch.randn(5, toy.WIDTH)
    torch.testing.assert_close(run.model.branch("a")(x).h, trained.model.branch("a")(x).h)
    again = mm.load(tmp_path / "run", recipe=RECIPE)
    torch.testing.assert_close(again.model.branch("a")(x).z, run.model.branch("a")(x).z)


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no shards": (dict(train=""), "no shards to solve on"),
    "width 0": (dict(solver=mm.CCA(width=0)), "at least 1"),
    "an unknown branch": (dict(features={"c": mm.FeatureMap()}), "names the branches"),
    "an unknown pair": (dict(pairs=(("a", "z"),)), "names the branches"),
    "negative draws": (dict(augmented_views={"a": -1}), "at least 0"),
    "a negative ridge": (dict(grid=mm.Grid(ridge=(-1.0,))), "ridge and within are at least 0"),
    "a power out of range": (dict(solver=mm.CCA(mm.Whitening(power=3.0))), "power of whitening"),
    "no scatter counted": (dict(solver=mm.CCA(mm.Whitening(within=1.0))), "no concept has two rows"),
    "no bandwidth": (dict(features={"a": mm.FeatureMap((), "nystrom", 8, 0.0)}, validation=""), "above 0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_settings_that_cannot_be_solved_are_refused_in_words(
    case: str, shards: str, held_out: str, tmp_path: Path
) -> None:
    changes, message = HOSTILE[case]
    with pytest.raises((InvalidValueError, UnknownNameError), match=message):
        mm.solve(replace(config(shards, held_out, tmp_path / "run"), **changes))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_feature_that_is_not_a_number_is_refused(held_out: str, tmp_path: Path) -> None:
    poisoned = toy.write_shards(tmp_path / "poisoned", poison=5)
    with pytest.raises(InvalidValueError, match="not finite"):
        mm.solve(config(poisoned, held_out, tmp_path / "run"))


def test_branches_without_a_common_sample_are_refused() -> None:
    data = correlated(20)
    apart = PairedRows(data.rows, {"a": data.samples["a"], "b": [[row + 20] for row in range(20)]})
    with pytest.raises(InvalidValueError, match="no sample has both 'a' and 'b'"):
        count_moments(apart, plain_spaces(apart))


def test_a_constant_branch_is_refused() -> None:
    data = correlated(20)
    still = PairedRows({**data.rows, "b": np.ones_like(data.rows["b"])}, data.samples)
    with pytest.raises(InvalidValueError, match="features of 'b' are constant"):
        mm.CCA().decompose(count_moments(still, plain_spaces(still)))


HOSTILE_DATA = {
    "one sample number less than rows": (lambda d: _samples(d, d.samples["b"][:-1]), "samples"),
    "no rows": (
        lambda d: PairedRows({**d.rows, "b": d.rows["b"][:0]}, {**d.samples, "b": []}),
        "has no rows",
    ),
    "infinity": (lambda d: _rows(d, np.where(d.rows["b"] > 5, np.inf, d.rows["b"])), "not finite"),
    "all NaN": (lambda d: _rows(d, np.full_like(d.rows["b"], np.nan)), "not finite"),
    "one pair": (lambda d: d.take(np.array([3])), "are constant"),
    "the same row again and again": (
        lambda d: _rows(d, np.repeat(d.rows["b"][:1], len(d.rows["b"]), 0)),
        "are constant",
    ),
    "words": (
        lambda d: PairedRows({**d.rows, "b": d.rows["b"].astype(str)}, d.samples),
        "branch 'b' has rows of the type <U",
    ),
    "one row, not a matrix": (
        lambda d: PairedRows({**d.rows, "b": d.rows["b"][:, 0]}, d.samples),
        "shape",
    ),
}


def _samples(data: PairedRows, samples: list[list[int]]) -> PairedRows:
    return PairedRows(data.rows, {**data.samples, "b": samples})


def _rows(data: PairedRows, rows: np.ndarray) -> PairedRows:
    return PairedRows({**data.rows, "b": rows.astype(np.float32)}, data.samples)


@pytest.mark.parametrize("case", HOSTILE_DATA)
def test_rows_that_cannot_be_counted_are_refused_in_words(case: str) -> None:
    broken, message = HOSTILE_DATA[case]
    with pytest.raises(InvalidValueError, match=message):
        data = broken(correlated(40))
        mm.CCA().decompose(count_moments(data, plain_spaces(data)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_rows_of_other_number_types_give_the_axes_of_their_fp32_values(dtype: type) -> None:
    data = correlated(40)
    rows: dict[str, np.ndarray] = {
        name: np.round(4 * features).astype(dtype) for name, features in data.rows.items()
    }
    found, expected = (
        mm.CCA().decompose(count_moments(each, plain_spaces(each))).strengths
        for each in (
            PairedRows(rows, data.samples),
            PairedRows({name: each.astype(np.float32) for name, each in rows.items()}, data.samples),
        )
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_duplicate_rows_weigh_as_often_as_they_occur_and_change_nothing_else() -> None:
    data = correlated(40)
    twice = PairedRows(
        {name: np.concatenate([rows, rows]) for name, rows in data.rows.items()},
        {name: [[row] for row in range(80)] for name in data.rows},
    )
    one, other = (
        mm.CCA().decompose(count_moments(each, plain_spaces(each))).strengths for each in (data, twice)
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_width_above_the_rank_gives_as_many_axes_as_there_are() -> None:
    axes = mm.CCA(width=10_000)
    solution = axes.heads(axes.decompose(count_moments(correlated(40), plain_spaces(correlated(40)))))
    assert solution.branches["a"][0].matrix.shape == (12, 9)


@pytest.mark.slow
def test_a_killed_solve_continues_to_the_heads_of_an_uninterrupted_one(
    shards: str, held_out: str, tmp_path: Path
) -> None:
    mm.solve(config(shards, held_out, tmp_path / "whole"))
    code = (
        "import sys; sys.path[:0] = sys.argv[1].split(':'); import os, signal, test_solve as t\n"
        "from pathlib import Path\n"
        "import mmvicreg.solvers.solve as s\n"
        "place = sys.argv[5]; inner = getattr(s, place)\n"
        "def killed(*a, **k):\n    inner(*a, **k); os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(s, place, killed)\n"
        "s.solve(t.config(sys.argv[2], sys.argv[3], Path(sys.argv[4])))"
    )
    out = tmp_path / "killed"
    folders = ":".join([str(Path(__file__).parent), str(RECIPE.parent)])
    for place in ("encode", "choose", "write_log"):
        done = subprocess.run(
            [sys.executable, "-c", code, folders, shards, held_out, str(out), place],
            env={**os.environ, "PYTHONPATH": str(Path(mm.__file__).parents[1])},
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    mm.solve(config(shards, held_out, out))
    whole, killed = (
        load_file(next((folder / "checkpoints").glob("step-*")) / "weights.safetensors")
        for folder in (tmp_path / "whole", out)
    )
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
