"""nDCG@10, MRR, R-precision and the recall of MTEB, against scikit-learn and against every order of tied items."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import Ranks, rank_queries
from mmvicreg.evaluation.retrieval import summarize


def tied_problem(seed, *, num_queries, num_items, distinct):
    """Items that share ``distinct`` embeddings, queries with one to four matches, and the cosines."""
    generator = np.random.default_rng(seed)
    items = generator.normal(size=(distinct, 4))[generator.integers(distinct, size=num_items)]
    queries = generator.normal(size=(num_queries, 4))
    query_n = np.r_[np.arange(num_queries), generator.integers(num_queries, size=2 * num_queries)]
    item_n = generator.integers(num_items, size=len(query_n))
    positives = Positives.from_pairs(query_n, item_n, num_queries=num_queries, num_items=num_items)
    norms = np.linalg.norm(queries, axis=1)[:, None], np.linalg.norm(items, axis=1)
    return (
        rank_queries(queries, items, positives),
        (queries @ items.T / norms[0] / norms[1]).round(6),
        positives,
    )


def matching(positives):
    relevant = np.zeros((positives.num_queries, positives.num_items), dtype=int)
    relevant[positives.pairs()] = 1
    return relevant


@pytest.mark.parametrize("distinct", [3, 40])
def test_ndcg_is_that_of_scikit_learn_with_ties_and_without(distinct):
    ranks, cosine, positives = tied_problem(0, num_queries=50, num_items=40, distinct=distinct)
    expected = [ndcg_score(r[None], c[None], k=10) for r, c in zip(matching(positives), cosine, strict=True)]
    np.testing.assert_allclose(ranks.discounted_gain(10), expected, rtol=1e-9)


def test_each_is_its_mean_over_all_orders_of_tied_items():
    ranks, cosine, positives = tied_problem(1, num_queries=12, num_items=6, distinct=2)
    for q, relevant in enumerate(matching(positives)):
        found = []
        for order in permutations(range(6)):
            hits = relevant[sorted(range(6), key=lambda m: (-cosine[q, m], order[m]))]
            size = relevant.sum()
            found.append([1 / (1 + hits.argmax()), hits[:size].sum() / size, hits[:3].sum() / size])
        reciprocal, precision, recall = np.mean(found, axis=0)
        assert ranks.reciprocal_rank()[q] == pytest.approx(reciprocal)
        assert ranks.found(ranks.matches)[q] == pytest.approx(precision)
        assert ranks.found(3)[q] == pytest.approx(recall)


def test_recall_of_any_match_and_of_all_matches_differ_and_both_are_named():
    positives = Positives.from_pairs(np.array([0, 0]), np.array([0, 1]), num_queries=1, num_items=4)
    items = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, 0.0]])
    flat = summarize(rank_queries(np.array([[1.0, 0.1]]), items, positives)).to_json()
    assert flat["recall_at_1"] == 1 and flat["mteb_recall_at_1"] == 0.5 and flat["mteb_recall_at_5"] == 1
    assert flat["mean_reciprocal_rank"] == 1 and flat["r_precision"] == 0.5
    assert flat["ndcg_at_10"] == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))


def test_ranges_of_queries_join_and_queries_without_a_match_are_left_out():
    generator = np.random.default_rng(3)
    queries, items = generator.normal(size=(30, 5)), generator.normal(size=(20, 5))
    query_n = generator.choice([q for q in range(30) if q % 4], size=60)
    positives = Positives.from_pairs(query_n, generator.integers(20, size=60), num_queries=30, num_items=20)
    whole = rank_queries(queries, items, positives, skip_unmatched=True)
    parts = [
        rank_queries(queries, items, positives, tile=10, queries=range(a, a + 10), skip_unmatched=True)
        for a in (0, 10, 20)
    ]
    joined = Ranks.join(parts)
    assert len(whole.found(5)) == np.count_nonzero(positives.counts) < 30
    for name in ("discounted_gain", "reciprocal_rank"):
        np.testing.assert_array_equal(getattr(whole, name)(), getattr(joined, name)())
    np.testing.assert_array_equal(whole.found(5), joined.found(5))
