"""Retrieval scores between two sets of embeddings, chance beside each, with intervals.

``recall`` counts every matching item: a query is answered when any of its matches is among the first k. MTEB and
trec_eval call another number recall, the fraction of a query's matches that are among the first k; it is here as
``mteb_recall``. See ``ranks`` for how ties are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives, require_positives
from mmvicreg.evaluation.ranks import Ranks, rank_both, rank_queries


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one direction, as fractions and ranks from 1.

    ``recall[k]``: fraction of queries with a match among the first k; ``chance[k]``: the same for a random
    order; ``interval[k]``: 95% bootstrap interval of ``recall[k]`` over queries (equal ends if not asked
    for); ``mean_average_precision``: mAP@R. ``mteb_recall[k]``: fraction of a query's matches that are among the first
    k; ``ndcg_at_10``: nDCG of the first 10 with gain 1 for a match; ``mean_reciprocal_rank``: of the best match,
    without a cut-off; ``r_precision``: fraction of a query's R matches among the first R.
    """

    recall: dict[int, float]
    chance: dict[int, float]
    interval: dict[int, tuple[float, float]]
    median_rank: float
    mean_rank: float
    mean_average_precision: float
    mteb_recall: dict[int, float]
    ndcg_at_10: float
    mean_reciprocal_rank: float
    r_precision: float
    num_queries: int
    num_items: int

    def to_json(self) -> dict[str, float | int]:
        """Flat names: ``recall_at_1``, ``chance_at_1``, ``interval_low_at_1``, ``interval_high_at_1``, ..."""
        flat: dict[str, float | int] = {}
        for k in self.recall:
            flat[f"recall_at_{k}"] = self.recall[k]
            flat[f"chance_at_{k}"] = self.chance[k]
            flat[f"interval_low_at_{k}"], flat[f"interval_high_at_{k}"] = self.interval[k]
            flat[f"mteb_recall_at_{k}"] = self.mteb_recall[k]
        return flat | {name: value for name, value in asdict(self).items() if not isinstance(value, dict)}


def retrieval_metrics(
    queries_QD: Tensor | np.ndarray,
    items_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    ks: Sequence[int] = (1, 5, 10),
    tile: int | None = None,
    device: str | torch.device = "cpu",
    sharded: bool = False,
    skip_unmatched: bool = False,
    resamples: int = 0,
) -> RetrievalScores:
    """Scores of finding the items that match each query, by cosine in fp32.

    Other parameters and errors are those of :func:`mmvicreg.evaluation.ranks.rank_queries`; ``resamples`` > 0 adds
    bootstrap intervals (1000 is usual).
    """
    ranks = rank_queries(
        queries_QD,
        items_MD,
        positives,
        tile=tile,
        device=device,
        sharded=sharded,
        skip_unmatched=skip_unmatched,
    )
    return summarize(ranks, ks=ks, resamples=resamples)


def cross_modal_metrics(
    a_QD: Tensor | np.ndarray,
    b_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    ks: Sequence[int] = (1, 5, 10),
    tile: int | None = None,
    device: str | torch.device = "cpu",
    sharded: bool = False,
    skip_unmatched: bool = False,
    resamples: int = 0,
) -> tuple[RetrievalScores, RetrievalScores]:
    """Scores of finding b from a, and a from b, at little more than the cost of one."""
    both = rank_both(
        a_QD, b_MD, positives, tile=tile, device=device, sharded=sharded, skip_unmatched=skip_unmatched
    )
    there, back = (summarize(ranks, ks=ks, resamples=resamples) for ranks in both)
    return there, back


def summarize(ranks: Ranks, *, ks: Sequence[int] = (1, 5, 10), resamples: int = 0) -> RetrievalScores:
    """Scores from ranks. Raises ValueError without queries or where k is not positive."""
    if len(ranks.above) == 0:
        raise InvalidValueError("no queries to score: the split is empty or no query has a matching item")
    if not ks or min(ks) < 1:
        raise InvalidValueError(f"ks must be at least 1, found {tuple(ks)}")
    recall = {k: float(ranks.recall(k).mean()) for k in ks}
    interval = {k: (recall[k], recall[k]) for k in ks}
    if resamples:
        interval = {k: bootstrap_interval(ranks.recall(k), resamples=resamples) for k in ks}
    rank = ranks.rank()
    return RetrievalScores(
        recall=recall,
        chance={k: float(ranks.chance(k).mean()) for k in ks},
        interval=interval,
        median_rank=float(np.median(rank)),
        mean_rank=float(rank.mean()),
        mean_average_precision=float(ranks.average_precision.mean()),
        mteb_recall={k: float(ranks.found(k).mean()) for k in ks},
        ndcg_at_10=float(ranks.discounted_gain(10).mean()),
        mean_reciprocal_rank=float(ranks.reciprocal_rank().mean()),
        r_precision=float(ranks.found(ranks.matches).mean()),
        num_queries=len(rank),
        num_items=ranks.num_items,
    )


def bootstrap_interval(
    values_Q: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries (Efron and Tibshirani 1993, chapter 13).

    Resamples are drawn as multinomial counts of the distinct values, so a million 0/1 queries cost no more
    than a thousand.
    """
    distinct, counts = np.unique(values_Q, return_counts=True)
    fractions = counts / counts.sum()
    drawn = np.random.default_rng(seed).multinomial(len(values_Q), fractions, size=resamples)
    low, high = np.quantile(drawn @ distinct / len(values_Q), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def folded_metrics(
    images_ND: Tensor | np.ndarray,
    captions_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    folds: int = 5,
    ks: Sequence[int] = (1, 5, 10),
    device: str | torch.device = "cpu",
) -> tuple[RetrievalScores, RetrievalScores]:
    """The COCO 1K protocol: consecutive folds of the images with their captions, scores averaged.

    ``interval`` then holds the lowest and highest fold.

    Returns image-to-caption and caption-to-image. ``positives`` are those of the images. The 5K protocol is
    :func:`retrieval` on everything. Raises ValueError where the images do not divide into the folds.
    """
    require_positives(positives)
    if len(images_ND) % folds or not len(images_ND):
        raise InvalidValueError(f"{len(images_ND)} images do not divide into {folds} folds of equal size")
    captions_of = positives.transpose()
    there, back = [], []
    for image_rows in np.split(np.arange(len(images_ND)), folds):
        mine = captions_of.select(np.arange(len(captions_MD)), image_rows)
        caption_rows = np.flatnonzero(mine.counts)
        part = positives.select(image_rows, caption_rows)
        rows = _take(images_ND, image_rows), _take(captions_MD, caption_rows)
        found = cross_modal_metrics(rows[0], rows[1], part, ks=ks, device=device)
        there.append(found[0])
        back.append(found[1])
    return _average(there), _average(back)


def _take(matrix: Tensor | np.ndarray, rows: np.ndarray) -> Tensor | np.ndarray:
    return matrix[rows] if isinstance(matrix, np.ndarray) else matrix[torch.from_numpy(rows)]


def _average(scores: list[RetrievalScores]) -> RetrievalScores:
    def mean(name: str) -> float:
        return float(np.mean([vars(s)[name] for s in scores]))

    def mean_at(name: str) -> dict[int, float]:
        return {k: float(np.mean([vars(s)[name][k] for s in scores])) for k in scores[0].recall}

    recalls = {k: [s.recall[k] for s in scores] for k in scores[0].recall}
    return RetrievalScores(
        recall=mean_at("recall"),
        chance=mean_at("chance"),
        interval={k: (min(values), max(values)) for k, values in recalls.items()},
        median_rank=mean("median_rank"),
        mean_rank=mean("mean_rank"),
        mean_average_precision=mean("mean_average_precision"),
        mteb_recall=mean_at("mteb_recall"),
        ndcg_at_10=mean("ndcg_at_10"),
        mean_reciprocal_rank=mean("mean_reciprocal_rank"),
        r_precision=mean("r_precision"),
        num_queries=sum(s.num_queries for s in scores),
        num_items=scores[0].num_items,
    )
