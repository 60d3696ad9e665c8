"""Solved runs are scored as their pages say: ridge by prediction both ways, and any of them beside a trained run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from safetensors.numpy import load_file
from test_solve import config

import mmvicreg as mm
from mmvicreg.evaluation.embed import embed_split
from mmvicreg.evaluation.evaluate import score_splits
from mmvicreg.evaluation.scoring.comparison import Scoring
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.shards.index import open_index
from mmvicreg.solvers.solve import EXACT

BALANCE = 0.4


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of every row of x with every row of y, fp64."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T


def recalls(scores: np.ndarray, matches: np.ndarray) -> list[float]:
    """R@1, R@5 and R@10 of the rows, then of the columns."""
    return [
        float(np.mean([hit[np.argsort(-row)[:k]].any() for row, hit in zip(each, hits, strict=True)]))
        for each, hits in ((scores, matches), (scores.T, matches.T))
        for k in (1, 5, 10)
    ]


def test_scoring_by_prediction_is_the_weighted_sum_of_both_cosines_of_the_exact_heads(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "shards", missing=7)
    held_out = toy.write_shards(tmp_path / "held_out", shards=1, seed=0, missing=0)
    solver = mm.Ridge(ridge=30.0, branches={"b": 0.1}, balance=BALANCE)
    run = mm.solve(replace(config(shards, "", tmp_path / "run"), solver=solver, grid=mm.Grid(ridge=())))
    scored = score_splits(run, {"held_out": held_out}, device="cpu", scoring=Scoring("prediction"))[
        "held_out"
    ]

    store, exact = embed_split(run, open_index(held_out)), load_file(run.folder / EXACT)
    h = {name: np.asarray(store.views[name].h, dtype=np.float64) for name in "ab"}
    predicted = {
        (name, part): (h[name] - exact[f"{name}.{part}.mean"]) @ exact[f"{name}.{part}.matrix"]
        for name in "ab"
        for part in (0, 1)
    }
    one = cosines(predicted["a", 0], predicted["b", 0])
    other = cosines(predicted["a", 1], predicted["b", 1])
    both = one + BALANCE * other
    samples = {name: [set(each) for each in store.views[name].samples] for name in "ab"}
    matches = np.array([[bool(first & second) for second in samples["b"]] for first in samples["a"]])
    found = [scored.retrieval[name].recall[k] for name in ("a_to_b", "b_to_a") for k in (1, 5, 10)]
    assert found == recalls(both, matches)
    assert found != recalls(one, matches) and found != recalls(other, matches)


@pytest.mark.slow
def test_a_solved_and_a_trained_run_are_scored_and_shown_together(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "shards", missing=7)
    held_out = toy.write_shards(tmp_path / "held_out", shards=1, seed=0, missing=0)
    solved = mm.solve(config(shards, "", tmp_path / "solved"))
    trained = mm.train(toy.Config(train=shards, out=str(tmp_path / "trained"), epochs=0.2), toy.objective)
    mm.evaluate(trained, {"held_out": held_out}, device="cpu", beside=[solved])
    page = (tmp_path / "trained" / "report.html").read_text()
    assert "<h2>Scores side by side</h2>" in page and not (tmp_path / "solved" / "report.html").exists()
    for run in (solved, trained):
        alone = score_splits(run, {"held_out": held_out}, device="cpu")["held_out"].retrieval["a_to_b"]
        written = read_summary(run.folder / "summary.json").split("held_out")
        assert written["a_to_b.recall_at_1"] == alone.recall[1]
