"""Every scoring against a slow reference in float64: hubness corrections, correlation axes, predictions, widths."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import rank_queries
from mmvicreg.evaluation.scoring import hubness
from mmvicreg.evaluation.scoring.comparison import RIDGE, Comparison, Scoring
from mmvicreg.evaluation.scoring.correlation import correlation_axes
from mmvicreg.evaluation.scoring.hubness import Hubness, corrected_rows
from mmvicreg.testing.processes import pool

CPU = torch.device("cpu")
KINDS: tuple[Hubness, ...] = ("csls", "inverted_softmax")


def hubby(seed, num_queries=23, num_items=31, width=6):
    """Rows with a common direction, which makes some items near every query."""
    generator = np.random.default_rng(seed)
    queries, items = (generator.normal(size=(n, width)) + 0.7 for n in (num_queries, num_items))
    pairs = generator.integers(num_queries, size=60), generator.integers(num_items, size=60)
    return queries, items, Positives.from_pairs(*pairs, num_queries=num_queries, num_items=num_items)


def cosines(queries, items):
    return [
        [float(np.dot(q, m) / math.sqrt(np.dot(q, q)) / math.sqrt(np.dot(m, m))) for m in items]
        for q in queries
    ]


def slow_csls(c):
    """Conneau et al. 2018, 2 cos - r_T(query) - r_S(item), with loops."""
    rows, columns = range(len(c)), range(len(c[0]))
    k = min(10, len(c)), min(10, len(c[0]))
    near_query = [sum(sorted(c[q], reverse=True)[: k[1]]) / k[1] for q in rows]
    near_item = [sum(sorted((c[q][m] for q in rows), reverse=True)[: k[0]]) / k[0] for m in columns]
    return [[2 * c[q][m] - near_query[q] - near_item[m] for m in columns] for q in rows]


def slow_inverted_softmax(c):
    """Smith et al. 2017: softmax over the queries instead of the items."""
    totals = [sum(math.exp(30 * row[m]) for row in c) for m in range(len(c[0]))]
    return [[math.exp(30 * value) / total for value, total in zip(row, totals, strict=True)] for row in c]


@pytest.mark.parametrize("tile", [1024, 7])
@pytest.mark.parametrize(("kind", "slow"), [("csls", slow_csls), ("inverted_softmax", slow_inverted_softmax)])
def test_corrected_ranks_are_those_of_the_published_scores(monkeypatch, tile, kind, slow):
    monkeypatch.setattr(hubness, "TILE", tile)
    for seed in range(3):
        queries, items, positives = hubby(seed)
        expected, plain = np.array(slow(cosines(queries, items))), np.array(cosines(queries, items))
        ranks = rank_queries(*corrected_rows(queries, items, kind), positives, skip_unmatched=True)
        query_n, item_n = positives.pairs()
        above = (expected[query_n] > expected[query_n, item_n][:, None]).sum(1)
        np.testing.assert_array_equal(ranks.match_above, above)
        assert (ranks.match_tied == 1).all()
        assert (above != (plain[query_n] > plain[query_n, item_n][:, None]).sum(1)).any()


@pytest.mark.parametrize("kind", ["csls", "inverted_softmax"])
def test_corrected_cosines_are_the_biased_ones_up_to_a_factor_and_rows_of_zeros_stay(kind):
    queries, items, _ = hubby(4)
    queries[3], items[5] = 0, 0
    left, right = corrected_rows(queries, items, kind)
    for rows in (left, right):
        norms = rows.norm(dim=1)
        torch.testing.assert_close(norms, norms[0].expand_as(norms), rtol=1e-12, atol=0)
    raw = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (queries, items)]
    bias = hubness.item_biases(torch.from_numpy(raw[0]), torch.from_numpy(raw[1]), kind).numpy()
    difference = (left @ right.T).numpy() - (raw[0] @ raw[1].T - bias)
    np.testing.assert_allclose(difference, difference[0, 0], atol=1e-12)


@pytest.mark.parametrize("kind", ["csls", "inverted_softmax"])
def test_a_collapsed_model_scores_chance_whatever_corrects_it(kind):
    positives = Positives.from_pairs(np.arange(50), np.arange(50), num_queries=50, num_items=50)
    vector = torch.randn(1, 33, generator=torch.Generator().manual_seed(0)).expand(50, 33)
    ranks = rank_queries(*corrected_rows(vector, vector, kind), positives)
    assert ranks.recall(5).mean() == pytest.approx(5 / 50)


def test_hubs_are_found_less_often_and_recall_rises():
    generator = np.random.default_rng(5)
    queries = generator.normal(size=(200, 24))
    items = queries + 2.5 * generator.normal(size=(200, 24))
    items[:5] = 3 * queries.mean(0) + 0.2  # near the mean of all queries
    queries += 0.5
    positives = Positives.from_pairs(np.arange(200), np.arange(200), num_queries=200, num_items=200)
    plain = rank_queries(queries, items, positives).recall(5).mean()
    for kind in KINDS:
        assert rank_queries(*corrected_rows(queries, items, kind), positives).recall(5).mean() > plain + 0.02


def inverse_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def test_correlation_scores_are_those_of_regularized_canonical_correlation_analysis():
    generator = np.random.default_rng(6)
    shared = generator.normal(size=(300, 3)) * [3, 1, 0.5]
    a = shared @ generator.normal(size=(3, 5)) + generator.normal(size=(300, 5))
    b = shared @ generator.normal(size=(3, 4)) + generator.normal(size=(300, 4))
    pairs = Positives.from_pairs(
        np.r_[np.arange(300), 7], np.r_[np.arange(300), 9], num_queries=300, num_items=300
    )
    axes = correlation_axes(a, b, pairs)
    first, second = pairs.pairs()
    means = a[first].mean(0), b[second].mean(0)
    x, y = a[first] - means[0], b[second] - means[1]
    cov = [m.T @ m / len(x) for m in (x, y)]
    whiten = [inverse_root(c + np.trace(c) / len(c) * np.eye(len(c))) for c in cov]
    left, rho, right = np.linalg.svd(whiten[0] @ (x.T @ y / len(x)) @ whiten[1], full_matrices=False)
    np.testing.assert_allclose(axes.correlations, rho, rtol=1e-9)
    expected = ((a - means[0]) @ whiten[0] @ left) * rho @ ((b - means[1]) @ whiten[1] @ right.T).T
    rows = axes.rows(a, b)
    np.testing.assert_allclose(rows[0] @ rows[1].T, expected, atol=1e-5)
    back = axes.turned().rows(b, a)
    np.testing.assert_array_equal(back[0], rows[1])


def compared(scoring, predictors, ends, z, *, config=None, width=0):
    """The rows of a comparison that takes nothing of a run but its predictors and its configuration."""
    run: Any = SimpleNamespace(predictors=predictors, config=config or {}, folder="runs/x")
    rows: Any = Comparison(scoring, run, CPU).rows(ends, z, width=width)
    return rows


def test_prediction_is_the_mean_of_the_cosines_both_ways():
    torch.manual_seed(0)
    there, back = nn.Linear(6, 4), nn.Linear(4, 6)
    a, b = torch.randn(9, 6), torch.randn(11, 4)
    scoring, z = Scoring("prediction"), (a.numpy(), b.numpy())
    with torch.no_grad():
        predicted_b, predicted_a = there(a).numpy(), back(b).numpy()
    rows = compared(scoring, {("a", "b"): there, ("b", "a"): back}, ("a", "b"), z)
    expected = (np.array(cosines(predicted_b, z[1])) + cosines(z[0], predicted_a)) / 2
    np.testing.assert_allclose(cosines(*rows), expected, atol=1e-6)
    one = compared(scoring, {("a", "b"): there}, ("a", "b"), z)
    np.testing.assert_array_equal(one[0], predicted_b)
    assert compared(scoring, {("a", "b"): there}, ("a", "c"), z) is None
    solved = compared(scoring, {}, ("a", "b"), (z[0], z[0]), config={"solver": {"class": RIDGE}})
    assert solved[0] is z[0]  # its heads are the predictions


def test_widths_take_the_first_columns_and_more_than_there_are_is_refused():
    queries, items, positives = hubby(7)
    rows = compared(Scoring(widths=(2,)), {}, ("a", "b"), (queries, items), width=2)
    expected = rank_queries(queries[:, :2], items[:, :2], positives, skip_unmatched=True)
    found = rank_queries(rows[0], rows[1], positives, skip_unmatched=True)
    np.testing.assert_array_equal(found.match_above, expected.match_above)
    with pytest.raises(ValueError, match="--widths 7: the compared rows have 6 columns"):
        compared(Scoring(), {}, ("a", "b"), (queries, items), width=7)


@pytest.mark.parametrize(
    "options", [{"kind": "correlation"}, {"correlation_data": "x.tar"}, {"widths": (0,)}, {"widths": (4, 4)}]
)
def test_options_that_do_not_go_together_are_refused(options):
    with pytest.raises(ValueError, match="--correlation-data|--widths"):
        Scoring(**options)


def corrected_on_one_process(tile):
    hubness.TILE = tile  # of this process alone
    queries, items, positives = hubby(8)
    rows = [corrected_rows(queries, items, kind, sharded=True) for kind in KINDS]
    return [rank_queries(*each, positives, skip_unmatched=True).match_above for each in rows]


@pytest.mark.slow
def test_two_processes_share_the_work_and_get_the_result_of_one():
    queries, items, positives = hubby(8)
    for found in pool(2).run(corrected_on_one_process, 7):
        for above, kind in zip(found, KINDS, strict=True):
            alone = rank_queries(*corrected_rows(queries, items, kind), positives, skip_unmatched=True)
            np.testing.assert_array_equal(above, alone.match_above)
