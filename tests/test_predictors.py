"""A run trained to predict is scored by its predictors, which come back with it and without its recipe."""

import json

import numpy as np
import pytest
import toy
import torch

import mmvicreg as mm
from mmvicreg.scoring import score_splits

WIDTHS = (16, 16)


def objective(config):
    """Prediction with a stop-gradient, and variance and covariance against collapse."""
    kept = mm.VarianceCovariance(variance=1.0, covariance=0.1)
    return mm.Objective(mm.Sum(mm.Prediction(WIDTHS, hidden=(32,), weight=5.0)), {"a": kept, "b": kept})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained for some hundred steps."""
    folder = tmp_path_factory.mktemp("predicting")
    train = toy.write_shards(folder / "data", shards=2, samples=256, missing=0)
    config = toy.Config(
        train=train,
        out=str(folder / "run"),
        epochs=30,
        batch_size=64,
        log_every=50,
        checkpoint_every=1000,
        optimizer=mm.OptimizerConfig(learning_rate=3e-3, warmup_epochs=1),
        guard=mm.GuardConfig(every=0, compare_every=0),
    )
    return mm.run(config, objective), train


def test_predictors_are_scored_beside_the_raw_cosine_and_find_far_more(run):
    trained, train = run
    scores = score_splits(trained, {"toy": train}, device="cpu")["toy"]
    for ends in ("a_to_b", "b_to_a"):
        raw, predicted = scores.retrieval[ends], scores.retrieval[f"{ends}_by_predictor"]
        print(ends, raw.recall, predicted.recall, raw.chance)
        assert predicted.recall[1] > 20 * predicted.chance[1]
        assert predicted.recall[10] > 2 * raw.recall[10]
    assert set(scores.to_json()) >= {"a_to_b", "a_to_b_by_predictor", "b_to_a_by_predictor", "independence"}
