"""Embeddings that carry no information score chance, and embeddings that are not finite score nothing."""

import numpy as np
import pytest
import torch

from mmvicreg.evaluation.geometry import describe, uniformity
from mmvicreg.evaluation.independence import independence
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranking import score_tiles
from mmvicreg.evaluation.ranking.match_counts import count_matches
from mmvicreg.evaluation.retrieval import cross_modal_metrics, retrieval_metrics
from mmvicreg.evaluation.transfer import classification
from mmvicreg.evaluation.transfer.multi_label import average_precision
from mmvicreg.exploration.row_index import RowIndex
from mmvicreg.testing.processes import pool

ROWS = 200


def pairs(rows=ROWS):
    return Positives.from_pairs(np.arange(rows), np.arange(rows), num_queries=rows, num_items=rows)


def collapsed(width, *, noise, seed, rows=ROWS, same=True, spread=3.0):
    """Queries and items along one direction (or one each), of lengths over some orders of magnitude, with noise."""
    random = np.random.default_rng(seed)
    first = random.normal(size=width)
    second = first if same else random.normal(size=width)
    sides = []
    for direction in (first, second):
        length = 10 ** random.uniform(-spread, spread, size=(rows, 1))
        sides.append((length * (direction + noise * random.normal(size=(rows, width)))).astype(np.float32))
    return sides


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6])
@pytest.mark.parametrize("width", [2, 3, 7, 33, 128, 511, 1024, 4096])
def test_a_model_collapsed_to_one_direction_scores_exactly_chance(width, noise):
    for seed, (tile, dtype) in enumerate(((400, torch.float32), (64, torch.float64), (7, torch.float32))):
        queries, items = (torch.from_numpy(x).to(dtype) for x in collapsed(width, noise=noise, seed=seed))
        for scores in cross_modal_metrics(queries, items, pairs(), tile=tile):
            assert scores.recall == pytest.approx({1: 1 / ROWS, 5: 5 / ROWS, 10: 10 / ROWS}, rel=1e-9)
            assert scores.median_rank == (ROWS + 1) / 2


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1e-4, 3e-4, 1e-3])
@pytest.mark.parametrize("width", [2, 64, 768, 4096])
@pytest.mark.parametrize("same", [True, False], ids=["one direction", "a direction each"])
def test_noise_of_any_size_around_the_direction_is_not_biased(noise, width, same):
    """Recall at k of 1,600 queries whose matches are no better than the rest: within five standard errors of chance.

    A score kernel that favours or handicaps a match by some roundings gives 0 or 1 here.
    """
    found: dict[int, list[float]] = {1: [], 10: [], 50: []}
    for seed in range(4):
        queries, items = collapsed(width, noise=noise, seed=seed, same=same)
        for scores in cross_modal_metrics(queries, items, pairs(), ks=tuple(found)):
            for k, value in scores.recall.items():
                found[k].append(value)
    for k, values in found.items():
        chance = k / ROWS
        error = (chance * (1 - chance) / (ROWS * len(values))) ** 0.5
        # A common order of all items (one direction each) makes the queries of one side depend on each other.
        assert abs(np.mean(values) - chance) < 5 * error, (k, np.mean(values), chance)


def test_half_precision_collapse_scores_chance():
    for dtype in (torch.float16, torch.bfloat16):
        queries, items = (torch.from_numpy(x).to(dtype) for x in collapsed(96, noise=0, seed=1, spread=0.5))
        scores = retrieval_metrics(queries, items, pairs())
        assert scores.recall[10] == pytest.approx(10 / ROWS, abs=0.06)


def counts_of_all(tile):
    queries, items = collapsed(65, noise=1e-3, seed=5, spread=1.0)
    items = items[np.arange(ROWS) % 40]  # rows that occur several times
    return count_matches(queries, items, pairs(), both=True, tile=tile, sharded=True)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_tiles_and_processes_give_the_same_counts_of_near_ties(processes):
    expected = counts_of_all(400)
    for found in [counts_of_all(7), *pool(processes).run(counts_of_all, 16)]:
        for name in ("score", "above", "tied", "queries_above", "queries_tied"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_counts_of_near_ties_are_those_of_exact_arithmetic():
    """Against cosines in extended precision, rounded to the grid; constant rows are the worst case of fp32 sums."""
    random = np.random.default_rng(0)
    for width, noise in ((3000, 2e-4), (511, 1e-3), (2, 1e-3)):
        a, b = (
            (1 + noise * random.normal(size=(60, width))).astype(np.float32).astype(np.longdouble)
            for _ in range(2)
        )
        unit = [x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (a, b)]
        level = np.floor((unit[0] @ unit[1].T) * 2.0**23 + 0.5)
        own = level.diagonal()[:, None]
        found = count_matches(a.astype(np.float32), b.astype(np.float32), pairs(60), tile=13)
        np.testing.assert_array_equal(found.above, (level > own).sum(1))
        np.testing.assert_array_equal(found.tied, (level == own).sum(1))


def test_many_matches_of_one_query_are_counted_the_same_way():
    queries, items = collapsed(16, noise=1e-7, seed=3)
    label = np.arange(ROWS) % 4
    query_n, item_n = np.nonzero(label[:, None] == label)
    positives = Positives.from_pairs(query_n, item_n, num_queries=ROWS, num_items=ROWS)
    scores = retrieval_metrics(queries, items, positives)
    assert scores.recall == pytest.approx(scores.chance)


@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-3])
def test_doubtful_scores_settled_alone_and_by_products_are_counted_alike(monkeypatch, noise):
    """Both ways of computing in fp64 what fp32 leaves open, beside a ranking in fp64 of the whole matrix."""
    queries, items = collapsed(600, noise=noise, seed=7, spread=1.0)
    label = np.arange(ROWS) % 70
    query_n, item_n = np.nonzero(label[:, None] == label)
    positives = Positives.from_pairs(query_n, item_n, num_queries=ROWS, num_items=ROWS)
    unit = [
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (queries, items)
    ]
    level = np.floor(unit[0] @ unit[1].T * 2.0**23 + 0.5)
    own = level[query_n, item_n]
    for sparse in (0.0, 1.0):
        monkeypatch.setattr(score_tiles, "SPARSE", sparse)
        found = count_matches(queries, items, positives, both=True, tile=64)
        np.testing.assert_array_equal(found.above, (level[query_n] > own[:, None]).sum(1))
        np.testing.assert_array_equal(found.tied, (level[query_n] == own[:, None]).sum(1))
        np.testing.assert_array_equal(found.queries_above, (level[:, item_n] > own).sum(0))
        np.testing.assert_array_equal(found.queries_tied, (level[:, item_n] == own).sum(0))


def test_reduced_matrix_precision_changes_nothing():
    """TF32 and bf16 products are off by 1e-3: they may not decide a comparison."""
    queries, items = collapsed(64, noise=1e-2, seed=1)
    expected = count_matches(queries, items, pairs())
    torch.set_float32_matmul_precision("medium")
    try:
        found = count_matches(queries, items, pairs())
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(found.above, expected.above)


def test_lengths_beyond_fp32_do_not_matter():
    random = np.random.default_rng(2)
    queries, items = random.normal(size=(2, 50, 8))
    items += queries
    expected = retrieval_metrics(queries, items, pairs(50))
    found = retrieval_metrics(queries * 1e60, items * 1e-60, pairs(50))
    assert found == expected
    assert expected.recall[1] > 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_with_their_number(bad):
    queries, items = collapsed(8, noise=1.0, seed=0)
    items[[3, 9]] = bad
    with pytest.raises(ValueError, match=r"row 3 of the items is not finite: 2 of 200 rows"):
        retrieval_metrics(queries, items, pairs())
    with pytest.raises(ValueError, match="row 3 of the queries"):
        retrieval_metrics(torch.from_numpy(items), queries, pairs())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [slice(None), slice(0, None, 2)], ids=["all rows", "half the rows"])
def test_no_classifier_and_no_statistic_takes_rows_that_are_not_finite(bad, rows):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 3
    broken = x.copy()
    broken[rows] = bad
    probe = classification.linear_probe(x, y)
    for call in (
        lambda: classification.knn_scores(broken, y, x, classes=3, k=3),
        lambda: classification.knn_scores(x, y, broken, classes=3, k=3),
        lambda: classification.linear_probe(broken, y),
        lambda: classification.sgd_probe(broken, y, classes=3, epochs=1),
        lambda: probe(broken),
        lambda: classification.score_classes(broken, y),
        lambda: classification.class_weights([broken]),
        lambda: average_precision(broken, broken > 0),
        lambda: describe(torch.from_numpy(broken)),
        lambda: independence(torch.from_numpy(broken)),
        lambda: RowIndex(broken),
    ):
        with pytest.raises(ValueError, match="row 0 of the .* is not finite"):
            call()


def test_uniformity_of_rows_of_zeros_is_that_of_their_distances():
    z = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert uniformity(z) == pytest.approx(np.log((2 * np.exp(-2.0) + 1) / 3))


def test_leaving_one_out_equals_a_search_among_the_other_rows():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(30, 5)), np.arange(30) % 3
    votes = classification.knn_scores(x, y, x, classes=3, k=4, leave_one_out=True)
    for row in range(30):
        others = np.delete(np.arange(30), row)
        alone = classification.knn_scores(x[others], y[others], x[row : row + 1], classes=3, k=4)
        torch.testing.assert_close(votes[row], alone[0])
