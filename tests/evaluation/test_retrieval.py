"""Retrieval scores against a brute-force oracle, closed forms, and a collapsed model."""

from itertools import permutations

import numpy as np
import pytest
import torch

from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranking import score_tiles
from mmvicreg.evaluation.ranks import Ranks, rank_both, rank_queries
from mmvicreg.evaluation.retrieval import bootstrap_interval, folded_metrics, retrieval_metrics, summarize


def oracle(scores_M, matches, k, order):
    """Recall, rank and mAP@R of one query for one way of breaking ties, in plain Python."""
    ranking = sorted(range(len(scores_M)), key=lambda m: (-scores_M[m], order[m]))
    hits = [m in matches for m in ranking]
    size = len(matches)
    precision = sum(hits[i] * sum(hits[: i + 1]) / (i + 1) for i in range(size)) / size
    return float(any(hits[:k])), hits.index(True) + 1, precision


def random_problem(seed, num_queries=40, num_items=60, most=6):
    generator = np.random.default_rng(seed)
    query_n = np.r_[
        np.arange(num_queries), generator.integers(num_queries, size=num_queries * (most - 1) // 2)
    ]
    item_n = generator.integers(num_items, size=len(query_n))
    positives = Positives.from_pairs(query_n, item_n, num_queries=num_queries, num_items=num_items)
    queries, items = generator.normal(size=(num_queries, 8)), generator.normal(size=(num_items, 8))
    return queries, items, positives


@pytest.mark.parametrize("columns", [16, 0], ids=["compared", "sorted"])
def test_ties_and_several_matches_equal_the_average_over_all_orders(monkeypatch, columns):
    monkeypatch.setattr(score_tiles, "COMPARED", columns)
    generator = np.random.default_rng(0)
    choices = generator.normal(size=(2, 4))
    items = choices[generator.integers(2, size=6)]  # six items, two distinct embeddings: many ties
    queries = generator.normal(size=(12, 4))
    query_n = np.r_[np.arange(12), generator.integers(12, size=12)]
    positives = Positives.from_pairs(query_n, generator.integers(6, size=24), num_queries=12, num_items=6)
    ranks = rank_queries(queries, items, positives, tile=5)
    cosine = queries.astype("f") @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T.astype("f")
    cosine = cosine.round(4)
    for q in range(12):
        matches = set(positives.indices[positives.offsets[q] : positives.offsets[q + 1]])
        for k in (1, 2, 3, 6):
            found = [oracle(cosine[q], matches, k, order) for order in permutations(range(6))]
            recall, rank, precision = np.mean(found, axis=0)
            assert ranks.recall(k)[q] == pytest.approx(recall)
            assert ranks.rank()[q] == pytest.approx(rank)
            assert ranks.average_precision[q] == pytest.approx(precision)


@pytest.mark.parametrize("tile", [1024, 7])
@pytest.mark.parametrize("repeat", [False, True])
def test_both_directions_from_one_pass_equal_each_alone(tile, repeat):
    queries, items, positives = random_problem(3)
    if repeat:
        queries, items = queries[np.arange(40) % 9], items[np.arange(60) % 20]
    rows = np.flatnonzero(positives.transpose().counts)
    items, positives = items[rows], positives.select(np.arange(40), rows)
    there, back = rank_both(queries, items, positives, tile=tile)
    alone = rank_queries(queries, items, positives), rank_queries(items, queries, positives.transpose())
    for found, expected in zip((there, back), alone, strict=True):
        for name in ("above", "tied", "tied_matches", "matches", "average_precision"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_scores_equal_a_brute_force_ranking(seed):
    queries, items, positives = random_problem(seed)
    scores = retrieval_metrics(queries, items, positives, ks=(1, 3))
    cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        items / np.linalg.norm(items, axis=1, keepdims=True)
    ).T
    rows = [
        set(positives.indices[a:b]) for a, b in zip(positives.offsets, positives.offsets[1:], strict=False)
    ]
    for k in (1, 3):
        found = [oracle(c, m, k, range(60)) for c, m in zip(cosine, rows, strict=True)]
        recall, rank, precision = np.mean(found, axis=0)
        assert scores.recall[k] == pytest.approx(recall)
    assert scores.mean_rank == pytest.approx(rank)
    assert scores.median_rank == pytest.approx(np.median([f[1] for f in found]))
    assert scores.mean_average_precision == pytest.approx(precision)


def test_a_collapsed_model_scores_exactly_chance():
    positives = Positives.from_pairs(np.arange(50), np.arange(50), num_queries=50, num_items=50)
    vector = torch.randn(1, 33, generator=torch.Generator().manual_seed(0))
    scores = retrieval_metrics(vector.expand(50, 33), vector.expand(50, 33), positives, tile=7)
    for k in (1, 5, 10):
        assert scores.recall[k] == pytest.approx(k / 50)
        assert scores.chance[k] == pytest.approx(k / 50)
    assert scores.median_rank == pytest.approx(25.5)
    zeros = retrieval_metrics(torch.zeros(50, 4), torch.zeros(50, 4), positives)
    assert zeros.recall[1] == pytest.approx(1 / 50)


@pytest.mark.slow
def test_chance_is_what_random_scores_reach():
    generator = np.random.default_rng(5)
    positives = Positives.from_pairs(
        generator.integers(400, size=4000), generator.integers(40, size=4000), num_queries=400, num_items=40
    )
    hits = np.zeros(400)
    for _ in range(200):
        above = np.argsort(generator.random((400, 40)), axis=1)[:, :5]
        hits += [
            np.isin(positives.indices[a:b], top).any()
            for a, b, top in zip(positives.offsets, positives.offsets[1:], above, strict=False)
        ]
    ranks = rank_queries(np.ones((400, 2)), np.ones((40, 2)), positives)
    assert ranks.chance(5).mean() == pytest.approx(hits.mean() / 200, abs=0.005)


def test_chunks_ranges_dtypes_and_backends_of_memory_give_the_same_ranks(tmp_path):
    queries, items, positives = random_problem(9, num_queries=100)
    whole = rank_queries(queries, items, positives)
    joined = Ranks.join(
        [rank_queries(queries, items, positives, tile=10, queries=range(a, a + 50)) for a in (0, 50)]
    )
    np.save(tmp_path / "items.npy", items.astype("f"))
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    tensors = rank_queries(torch.tensor(queries), mapped, positives, tile=33)
    for other in (joined, tensors):
        for name in ("above", "tied", "tied_matches", "matches", "average_precision"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(other, name))


def test_unmatched_queries_are_left_out_and_unmatched_items_stay():
    queries, items, positives = random_problem(4)
    rows = np.r_[np.arange(10, 40), np.arange(10)]
    fewer = positives.select(np.arange(40), np.arange(30))  # items 30.. are gone, some queries with them
    matched = np.flatnonzero(fewer.counts)
    assert len(matched) < 40
    skipped = rank_queries(queries, items[:30], fewer, skip_unmatched=True)
    alone = rank_queries(queries[matched], items[:30], fewer.select(matched, np.arange(30)))
    np.testing.assert_array_equal(skipped.above, alone.above)
    there, back = rank_both(queries, items, positives.select(rows, np.arange(60)), skip_unmatched=True)
    assert len(there.above) == 40 and there.num_items == 60
    assert len(back.above) == np.count_nonzero(positives.transpose().counts)


def test_positives_come_from_shared_samples_and_transpose():
    images = [[0], [1], [2]]
    captions = [[0, 1], [2], [2], [7]]  # the first caption is shared by two images, the last has no image
    positives = Positives.from_identities(images, captions)
    assert positives.counts.tolist() == [1, 1, 2]
    assert positives.indices.tolist() == [0, 0, 1, 2]
    back = positives.transpose()
    assert back.counts.tolist() == [2, 1, 1, 0]
    assert back.select(np.array([2, 0]), np.array([1, 2])).indices.tolist() == [1, 0]


def test_five_folds_average_the_scores_of_each_fold():
    generator = np.random.default_rng(1)
    images, captions = generator.normal(size=(20, 5)), generator.normal(size=(100, 5))
    positives = Positives.from_pairs(
        np.repeat(np.arange(20), 5), np.arange(100), num_queries=20, num_items=100
    )
    there, back = folded_metrics(images, captions, positives, folds=5)
    one = Positives.from_pairs(np.repeat(np.arange(4), 5), np.arange(20), num_queries=4, num_items=20)
    parts = [(images[4 * f : 4 * f + 4], captions[20 * f : 20 * f + 20]) for f in range(5)]
    assert there.recall[1] == pytest.approx(
        np.mean([retrieval_metrics(i, c, one).recall[1] for i, c in parts])
    )
    back_parts = [retrieval_metrics(c, i, one.transpose()).recall[1] for i, c in parts]
    assert back.recall[1] == pytest.approx(np.mean(back_parts))
    assert (there.num_items, back.num_items) == (20, 4)


def test_bootstrap_intervals_cover_the_true_mean_as_often_as_they_say():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(generator.random(300) < 0.3, resamples=300, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_json_names_are_flat():
    queries, items, positives = random_problem(0)
    flat = summarize(rank_queries(queries, items, positives), resamples=50).to_json()
    assert {"recall_at_1", "chance_at_10", "interval_low_at_5", "median_rank", "num_items"} <= set(flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, i, p: (q[:, :3], i, p), "must share D"),
        (lambda q, i, p: (q[:5], i, p), "positives are of 40 queries"),
        (lambda q, i, p: (q, np.where(np.arange(60)[:, None] == 4, np.nan, i), p), "row 4 of the items"),
        (
            lambda q, i, p: (
                q,
                i,
                p.select(np.arange(40), np.arange(5)).select(np.arange(40), np.zeros(60, int)),
            ),
            "match no item",
        ),
        (
            lambda q, i, p: (q, i, [[0, 3], [1]]),
            "positives is a list; expected a Positives: Positives.from_pairs",
        ),
        (
            lambda q, i, p: (
                q,
                i,
                Positives.from_pairs(np.array([0.5]), np.array([1]), num_queries=40, num_items=60),
            ),
            "whole numbers",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(*change(*random_problem(0)))
