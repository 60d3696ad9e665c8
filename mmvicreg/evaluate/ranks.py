"""Where the matching items of each query stand, exactly, in bounded memory; and what follows from it.

Ties are counted honestly: items with the same score stand in random order, and every number here is the
expectation over that order, in closed form. A collapsed model (all scores equal) therefore scores chance,
whatever the order of the rows. Items whose embeddings are bit-identical are scored once, because matrix
products do not give the same bits in every column; scores are otherwise compared as they are.

Shapes: Q queries, M items, D dimensions, C queries of one chunk, P matching items of a query.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.evaluate.positives import Positives

SCORES_IN_FLIGHT = {"cpu": 2**21, "cuda": 2**28}
"""Scores held at once when no chunk is given: 8 MB on a CPU, 1 GB on a GPU."""
COLUMNS_COMPARED = 16
"""Up to this many matches per query, comparing with each is cheaper than sorting the row of scores."""
BLOCK = 4096
"""Rows of the inputs that are looked at together, outside the matrix product."""
EXACT = 2**24
"""fp32 counts are exact up to here."""


@dataclass(frozen=True)
class Ranks:
    """Per query, all (Q,) arrays: what every retrieval score is a function of.

    ``above`` counts the items that score higher than the best match, ``tied`` those equal to it (itself
    included) and ``tied_matches`` how many of these match; ``matches`` counts all matches;
    ``average_precision`` is the expected mAP@R of the query (R = its matches).
    """

    above: np.ndarray
    tied: np.ndarray
    tied_matches: np.ndarray
    matches: np.ndarray
    average_precision: np.ndarray
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

    @staticmethod
    def join(parts: list[Ranks]) -> Ranks:
        """The ranks of consecutive ranges of queries as one."""
        names = ("above", "tied", "tied_matches", "matches", "average_precision")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Ranks(**arrays, num_items=parts[0].num_items)


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


def chunk_size(num_items: int, device: torch.device) -> int:
    """Queries scored at a time so that the scores in flight stay bounded."""
    return max(1, SCORES_IN_FLIGHT[device.type] // max(1, num_items))


@torch.no_grad()
def rank_queries(
    queries_QD: Tensor | np.ndarray,
    items_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    chunk: int | None = None,
    device: str | torch.device = "cpu",
    start: int = 0,
    stop: int | None = None,
) -> Ranks:
    """Ranks of queries start..stop among all items, by cosine in fp32.

    Any float dtype, torch or NumPy (memory-mapped too); rows are normalised here. ``chunk`` queries are
    scored at a time; memory is one copy of the items in fp32 at most (none if they already are, on the
    device) and a few times ``chunk`` x M. Chunks begin at multiples of ``chunk``, so that a range split
    over processes at such multiples gives the same bits as one process.

    Raises ValueError on shapes that do not fit, non-finite embeddings, or a query without a match.
    """
    _check(queries_QD, items_MD, positives)
    device = torch.device(device)
    items_MD = _rows(items_MD, slice(None), device)
    scale_M = _inverse_norm(items_MD, "items")
    items_UD, first_U, column_M = _distinct(items_MD)
    chunk = chunk or chunk_size(positives.num_items, device)
    stop = positives.num_queries if stop is None else stop
    scale_U = scale_M[first_U]
    parts = []
    work = torch.empty(2, max(0, min(chunk, stop - start)), len(items_UD), device=device)
    with torch.autocast(device.type, enabled=False):
        for first in range(start, stop, chunk):
            rows = slice(first, min(first + chunk, stop))
            queries_CD = _rows(queries_QD, rows, device)
            queries_CD = queries_CD * _inverse_norm(queries_CD, "queries")[:, None]
            scores_CM, spare_CM = work[:, : len(queries_CD)]
            torch.matmul(queries_CD, items_UD.T, out=scores_CM).mul_(scale_U)
            if column_M is not None:
                scores_CM, spare_CM = scores_CM[:, column_M], torch.empty_like(scores_CM[:, column_M])
            parts.append(_rank_chunk(scores_CM, spare_CM, positives.offsets, positives.indices, rows))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Ranks(none, none, none, none, np.zeros(0), positives.num_items)
    return Ranks.join(parts)


def _check(queries_QD: Tensor | np.ndarray, items_MD: Tensor | np.ndarray, positives: Positives) -> None:
    shapes = (tuple(queries_QD.shape), tuple(items_MD.shape))
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"queries (Q, D) and items (M, D) must share D, found {shapes[0]} and {shapes[1]}")
    if (positives.num_queries, positives.num_items) != (shapes[0][0], shapes[1][0]):
        found = f"{positives.num_queries} queries and {positives.num_items} items"
        raise ValueError(f"positives are of {found}, the embeddings of {shapes[0][0]} and {shapes[1][0]}")
    lonely = np.flatnonzero(positives.counts == 0)
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} of {positives.num_queries} queries match no item (first: row {lonely[0]}); "
            "leave them out of the queries, they have no rank"
        )


def _rows(matrix: Tensor | np.ndarray, rows: slice, device: torch.device) -> Tensor:
    part = matrix[rows]
    if isinstance(part, np.ndarray):  # memory-mapped arrays are read-only, which torch warns about
        part = torch.from_numpy(np.require(part, requirements=["W", "C"]))
    return part.to(device, torch.float32)


def _distinct(items_MD: Tensor) -> tuple[Tensor, Tensor | slice, Tensor | None]:
    """The distinct rows, where they first stand, and (where some repeat) which of them each item is."""
    hashes = [hash(row.tobytes()) for block_ND in items_MD.split(BLOCK) for row in block_ND.cpu().numpy()]
    _, first, column = np.unique(np.array(hashes, dtype=np.int64), return_index=True, return_inverse=True)
    if len(first) == len(items_MD):
        return items_MD, slice(None), None
    rows = torch.from_numpy(first).to(items_MD.device)
    return items_MD[rows], rows, torch.from_numpy(column).to(items_MD.device)


def _inverse_norm(x_ND: Tensor, name: str) -> Tensor:
    """1 / ||row||, and 0 for a zero row: it then scores 0 against everything, which is a tie."""
    # Not linalg.vector_norm: in fp32 on a CPU it is off by up to 7e-4.
    norm_N = torch.cat([rows_nD.square().sum(1).sqrt() for rows_nD in x_ND.split(BLOCK)])
    if not bool(norm_N.isfinite().all()):
        row = int((~norm_N.isfinite()).nonzero()[0])
        raise ValueError(f"row {row} of the {name} is not finite (or overflows fp32); check the checkpoint")
    return torch.where(norm_N > 0, norm_N.reciprocal(), 0.0)


def _rank_chunk(
    scores_CM: Tensor, spare_CM: Tensor, offsets: np.ndarray, indices: np.ndarray, rows: slice
) -> Ranks:
    offsets = offsets[rows.start : rows.stop + 1]
    matches = np.diff(offsets)
    column = np.arange(matches.max())
    valid = column < matches[:, None]
    # Padding repeats the query's first match; ``valid`` takes it out again.
    at = offsets[:-1, None] + np.where(valid, column, 0)
    index_CP = torch.from_numpy(indices[at]).to(scores_CM.device)
    found_CP = scores_CM.gather(1, index_CP)
    above_CP, tied_CP = (count.cpu().numpy() for count in _count(scores_CM, spare_CM, found_CP))
    match_CP = np.where(valid, found_CP.cpu().numpy(), -np.inf)
    best = match_CP.argmax(1)[:, None]
    tied_matches = (match_CP == np.take_along_axis(match_CP, best, 1)).sum(1)
    above, tied = (np.take_along_axis(count, best, 1)[:, 0] for count in (above_CP, tied_CP))
    precision = _average_precision(match_CP, above_CP, tied_CP)
    return Ranks(above, tied, tied_matches, matches, precision, scores_CM.shape[1])


def _count(scores_CM: Tensor, spare_CM: Tensor, match_CP: Tensor) -> tuple[Tensor, Tensor]:
    """Items above each match and items equal to it, int64 (C, P) both; ``spare_CM`` is overwritten."""
    if match_CP.shape[1] <= COLUMNS_COMPARED:
        # Comparing into fp32 and summing that is 20 times faster on a CPU than summing booleans.
        exact = torch.float32 if scores_CM.shape[1] <= EXACT else torch.float64
        columns = match_CP.split(1, dim=1)
        above = [torch.gt(scores_CM, m_C1, out=spare_CM).sum(1, dtype=exact) for m_C1 in columns]
        tied = [torch.eq(scores_CM, m_C1, out=spare_CM).sum(1, dtype=exact) for m_C1 in columns]
        return torch.stack(above, 1).long(), torch.stack(tied, 1).long()
    ordered_CM = scores_CM.sort(dim=1).values
    up_to_CP = torch.searchsorted(ordered_CM, match_CP, right=True)
    below_CP = torch.searchsorted(ordered_CM, match_CP)
    return scores_CM.shape[1] - up_to_CP, up_to_CP - below_CP


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
