"""What follows from where the matching items of each query stand: recall, ranks, mAP@R.

Items with the same score stand in random order, and every number here is the expectation over that order, in closed
form. A collapsed model (all scores equal) therefore scores chance,
whatever the order of the rows.

Shapes: Q queries, M items, D dimensions, P matching items of a query at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives, require_positives
from mmvicreg.evaluation.ranking.match_counts import count_matches

GROUP = 4096
"""Queries that are processed together."""


@dataclass(frozen=True)
class Ranks:
    """Per query, all (Q,) arrays: what every retrieval score is a function of.

    ``above`` counts the items that score higher than the best match, ``tied`` those equal to it (itself
    included) and ``tied_matches`` how many of these match; ``matches`` counts all matches;
    ``average_precision`` is the expected mAP@R of the query (R = its matches). ``match_above`` and ``match_tied`` are
    the same two counts for every match, not the best alone: int64 (sum of ``matches``,), in the order of the queries.
    """

    above: np.ndarray
    tied: np.ndarray
    tied_matches: np.ndarray
    matches: np.ndarray
    average_precision: np.ndarray
    match_above: np.ndarray
    match_tied: np.ndarray
    num_items: int

    def recall(self, k: int) -> np.ndarray:
        """Probability that a match is among the first k, float64 (Q,)."""
        return 1.0 - _missed(self.tied, self.tied_matches, np.clip(k - self.above, 0, self.tied))

    def chance(self, k: int) -> np.ndarray:
        """The same for a random order of all items, float64 (Q,)."""
        everything = np.full_like(self.matches, self.num_items)
        return 1.0 - _missed(everything, self.matches, np.minimum(k, everything))

    def rank(self) -> np.ndarray:
        """Expected rank of the best match, counted from 1, float64 (Q,)."""
        return self.above + (self.tied + 1) / (self.tied_matches + 1)

    def found(self, k: int | np.ndarray) -> np.ndarray:
        """Expected fraction of a query's matches that are among its first k, float64 (Q,); ``k`` one for all, or (Q,).

        Recall as MTEB and trec_eval count it; with k the number of matches, R-precision.
        """
        k_P = np.repeat(np.broadcast_to(k, self.matches.shape), self.matches)
        inside_P = np.clip(k_P - self.match_above, 0, self.match_tied) / self.match_tied
        return self._sum_of_matches(inside_P) / self.matches

    def discounted_gain(self, k: int = 10) -> np.ndarray:
        """Expected nDCG@k with gain 1 for a match, discount 1 / log2(1 + position), float64 (Q,).

        Järvelin and Kekäläinen 2002; ties as in McSherry and Najork 2008.
        """
        discounts = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]
        first, last = (np.minimum(x, k) for x in (self.match_above, self.match_above + self.match_tied))
        gain_P = (discounts[last] - discounts[first]) / self.match_tied
        return self._sum_of_matches(gain_P) / discounts[np.minimum(self.matches, k)]

    def reciprocal_rank(self) -> np.ndarray:
        """Expectation of 1 / rank of the best match, float64 (Q,)."""
        cases = np.stack([self.above, self.tied, self.tied_matches], axis=1)
        distinct, case_Q = np.unique(cases, axis=0, return_inverse=True)
        return np.array([_expected_reciprocal(*case) for case in distinct.tolist()])[case_Q.reshape(-1)]

    def _sum_of_matches(self, values_P: np.ndarray) -> np.ndarray:
        if not len(self.matches):
            return np.zeros(0)
        return np.add.reduceat(values_P, np.cumsum(self.matches) - self.matches)

    @staticmethod
    def join(parts: list[Ranks]) -> Ranks:
        """The ranks of consecutive ranges of queries as one."""
        return Ranks(
            above=np.concatenate([part.above for part in parts]),
            tied=np.concatenate([part.tied for part in parts]),
            tied_matches=np.concatenate([part.tied_matches for part in parts]),
            matches=np.concatenate([part.matches for part in parts]),
            average_precision=np.concatenate([part.average_precision for part in parts]),
            match_above=np.concatenate([part.match_above for part in parts]),
            match_tied=np.concatenate([part.match_tied for part in parts]),
            num_items=parts[0].num_items,
        )


def _missed(size: np.ndarray, wanted: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Probability of none of ``wanted`` among ``drawn`` of ``size``.

    C(size - wanted, drawn) / C(size, drawn), as the product over the wanted of
    (size - drawn - i) / (size - i): all integers, so 0 and 1 are exact.
    """
    missed = np.ones(len(size))
    for i in range(int(wanted.max(initial=0))):
        factor = np.maximum(size - drawn - i, 0) / np.maximum(size - i, 1)
        missed *= np.where(i < wanted, factor, 1.0)
    return missed


def _expected_reciprocal(above: int, tied: int, matches: int) -> float:
    """Expectation of 1 / (above + X), X the first of ``matches`` that lie in random order among ``tied``.

    P(X = 1) = p / t, and P(X = j + 1) = P(X = j) (t - j - p + 1) / (t - j) for t tied and p matching.
    """
    place = np.arange(1, tied - matches + 1)
    chance = matches / tied * np.r_[1.0, np.cumprod((tied - place - matches + 1) / (tied - place))]
    return float((chance / (above + np.arange(1, len(chance) + 1))).sum())


def rank_queries(
    queries_QD: Tensor | np.ndarray,
    items_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    tile: int | None = None,
    device: str | torch.device = "cpu",
    sharded: bool = False,
    queries: range | None = None,
    skip_unmatched: bool = False,
) -> Ranks:
    """Ranks of the queries among all items, by cosine in fp32; ``queries`` ranks a range of them only.

    ``skip_unmatched`` leaves out queries that match nothing (a sample that lacks a modality); items that no
    query matches stay, as distractors. Other parameters are those of
    :func:`mmvicreg.evaluation.ranking.match_counts.count_matches`. Raises ValueError on shapes that do not fit,
    non-finite embeddings, or (unless skipped) a query without a match.
    """
    require_positives(positives)
    _check_matched(positives, skip_unmatched)
    counts = count_matches(
        queries_QD, items_MD, positives, tile=tile, device=device, sharded=sharded, queries=queries
    )
    return _ranks(positives, counts.score, (counts.above, counts.tied), queries)


def rank_both(
    queries_QD: Tensor | np.ndarray,
    items_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    tile: int | None = None,
    device: str | torch.device = "cpu",
    sharded: bool = False,
    skip_unmatched: bool = False,
) -> tuple[Ranks, Ranks]:
    """Ranks of the queries among the items, and of the items among the queries, from one pass.

    As :func:`rank_queries` on both sides.
    """
    require_positives(positives)
    back = positives.transpose()
    _check_matched(positives, skip_unmatched)
    _check_matched(back, skip_unmatched)
    counts = count_matches(
        queries_QD, items_MD, positives, both=True, tile=tile, device=device, sharded=sharded
    )
    query_n, item_n = positives.pairs()
    order = np.lexsort((query_n, item_n))
    there = _ranks(positives, counts.score, (counts.above, counts.tied), None)
    level = counts.queries_above[order], counts.queries_tied[order]
    return there, _ranks(back, counts.score[order], level, None)


def _check_matched(positives: Positives, skip_unmatched: bool) -> None:
    lonely = np.flatnonzero(positives.counts == 0)
    if len(lonely) and not skip_unmatched:
        raise InvalidValueError(
            f"{len(lonely)} of {positives.num_queries} queries match no item (first: row {lonely[0]}); "
            "they have no rank: leave them out, or say skip_unmatched"
        )


def _ranks(
    positives: Positives,
    score_P: np.ndarray,
    counts: tuple[np.ndarray, np.ndarray],
    queries: range | None,
) -> Ranks:
    """From counts (above, tied) per match to counts per query; ``queries`` None for all."""
    above_P, tied_P = counts
    queries = range(positives.num_queries) if queries is None else queries
    wanted = queries.start + np.flatnonzero(positives.counts[queries.start : queries.stop])
    parts = []
    for first in range(0, max(1, len(wanted)), GROUP):
        group = wanted[first : first + GROUP]
        start, matches = positives.offsets[group], positives.counts[group]
        column = np.arange(matches.max(initial=0))
        valid = column < matches[:, None]
        at = start[:, None] + np.where(valid, column, 0)
        score_QP = np.where(valid, score_P[at], -np.inf)
        best = score_QP.argmax(1)[:, None]
        tied_matches = (score_QP == np.take_along_axis(score_QP, best, 1)).sum(1)
        above, tied = (np.take_along_axis(count[at], best, 1)[:, 0] for count in (above_P, tied_P))
        precision = _average_precision(score_QP, above_P[at], tied_P[at])
        every = above_P[at][valid], tied_P[at][valid]
        parts.append(Ranks(above, tied, tied_matches, matches, precision, *every, positives.num_items))
    return Ranks.join(parts)


def _average_precision(match_CP: np.ndarray, above_CP: np.ndarray, tied_CP: np.ndarray) -> np.ndarray:
    """Expected mAP@R over random tie breaks, float64 (C,); matches at -inf are padding.

    mAP@R = 1/R sum_{i <= R} precision(i) [item i matches] (Musgrave et al., arXiv 2003.08505, eq. 4). For
    a block of t equal scores after g items, p of the block matching and r matches before it (McSherry and
    Najork, ECIR 2008): position g + j has expectation p/t (r + 1 + (j-1)(p-1)/(t-1)) / (g + j). Summed
    over j = 1..m with harmonic numbers H: p/t [B m + (r + 1 - B (g + 1)) (H_{g+m} - H_g)], B = (p-1)/(t-1).
    """
    num_matches = (match_CP > -np.inf).sum(1)
    order = np.argsort(-match_CP, axis=1, kind="stable")
    match_CP, g, t = (np.take_along_axis(x, order, 1) for x in (match_CP, above_CP, tied_CP))
    place = np.arange(match_CP.shape[1])[None]
    first = np.ones_like(g, dtype=bool)
    first[:, 1:] = match_CP[:, 1:] != match_CP[:, :-1]
    r = np.maximum.accumulate(np.where(first, place, 0), axis=1)  # matches before the block
    p = _block_sizes(first)
    m = np.clip(num_matches[:, None] - g, 0, t)
    slope = np.where(t > 1, (p - 1) / np.maximum(t - 1, 1), 0.0)
    harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, num_matches.max() + 1))]
    last = np.minimum(g, num_matches[:, None])
    span = harmonic[last + m] - harmonic[last]
    total = p / t * (slope * m + (r + 1 - slope * (g + 1)) * span)
    use = first & (match_CP > -np.inf)
    return np.where(use, total, 0.0).sum(1) / num_matches


def _block_sizes(first_CP: np.ndarray) -> np.ndarray:
    """Length of the block each entry is in, blocks beginning where ``first`` is true."""
    starts = np.flatnonzero(first_CP.ravel())
    sizes = np.diff(np.r_[starts, first_CP.size])
    return np.repeat(sizes, sizes).reshape(first_CP.shape)
