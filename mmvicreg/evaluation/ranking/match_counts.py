"""For every matching (query, item): how many items score higher and how many the same, and how many queries.

Two cosines are the same if they round to the same multiple of ``GRID``, the spacing of fp32 numbers just below 1.
Being the same is therefore transitive, and embeddings that differ by rounding alone are tied: a collapsed model scores
chance. The comparison is decided in fp64. A matrix product in fp32 comes first and settles every score that is farther
from its thresholds than fp32's error. The few others are computed again in fp64, one by one, by the same sum as the
score of the match itself, or, where many of a tile are doubtful (a collapsed model), by a product in fp64. Both
operands of a comparison thus have the same precision, and the result does not depend on the tile, the processor or the
number of processes.

The score matrix is made tile by tile and never kept, so memory does not grow with it; counts add up over tiles and
processes.

Shapes: Q queries, M items, D dimensions, P matches; C rows and K columns of a tile, S matches of one row at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranking.score_tiles import GRID, DoubtfulScores, ScoreTile, WantedMatches, levels
from mmvicreg.evaluation.unit_rows import UnitRows
from mmvicreg.numerics import product

TILE = {"cpu": 400, "cuda": 16384}
"""Rows and columns of a tile: 0.6 MB of scores on a CPU, 1 GB on a GPU."""


@dataclass(frozen=True)
class MatchCounts:
    """Counts of every match p, in the order of ``positives.pairs()``; arrays of shape (P,).

    ``score``: its cosine rounded to a multiple of ``GRID``, float64. ``above``, ``tied``: how many items score higher
    with its query, and how many the same (itself included), int64. ``queries_above``, ``queries_tied``: the same among
    the queries, for its item.
    """

    score: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    queries_above: np.ndarray
    queries_tied: np.ndarray


@torch.no_grad()
def count_matches(
    queries_QD: Tensor | np.ndarray,
    items_MD: Tensor | np.ndarray,
    positives: Positives,
    *,
    both: bool = False,
    tile: int | None = None,
    device: str | torch.device = "cpu",
    sharded: bool = False,
    queries: range | None = None,
) -> MatchCounts:
    """Counts of every match, by cosine. ``both`` counts among the queries too (else those counts are 0).

    Any float dtype, torch or NumPy (memory-mapped too). ``sharded``: each process of the default group takes a range
    of tiles, and every process gets the whole result. ``queries``: count for these queries only (the counts of the
    others are 0).

    Raises ValueError on shapes that do not fit, and on rows that are not finite.
    """
    _check(queries_QD, items_MD, positives)
    device = torch.device(device)
    tile = tile or TILE[device.type]
    left = UnitRows(queries_QD, "queries", tile, device)
    right = UnitRows(items_MD, "items", tile, device)
    pairs = _Pairs.of(left, right, *positives.pairs())
    total = torch.zeros(4, len(pairs.level), device=device, dtype=torch.int64)
    columns = _wanted_by_tile(right, pairs.item, pairs.query, pairs.level) if both else None
    with torch.autocast(device.type, enabled=False):
        for span in _own_tiles(left, queries, sharded):
            _count_rows(left, right, span, pairs, total, columns)
    if sharded:
        total = distributed.all_reduce_sum(total)
    return MatchCounts(pairs.level.cpu().numpy() * GRID, *total.cpu().numpy())


def _check(queries_QD: Tensor | np.ndarray, items_MD: Tensor | np.ndarray, positives: Positives) -> None:
    shapes = (tuple(queries_QD.shape), tuple(items_MD.shape))
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise InvalidValueError(
            f"queries (Q, D) and items (M, D) must share D, found {shapes[0]} and {shapes[1]}"
        )
    if 0 in (shapes[0][0], shapes[1][0]):
        raise InvalidValueError(f"nothing to score: {shapes[0][0]} queries and {shapes[1][0]} items")
    if (positives.num_queries, positives.num_items) != (shapes[0][0], shapes[1][0]):
        found = f"{positives.num_queries} queries and {positives.num_items} items"
        raise InvalidValueError(
            f"positives are of {found}, the embeddings of {shapes[0][0]} and {shapes[1][0]}"
        )


def _own_tiles(left: UnitRows, queries: range | None, sharded: bool) -> list[tuple[int, int]]:
    """The tiles of queries that this process counts."""
    tiles = left.tiles()
    if queries is not None:
        tiles = tiles[queries.start // left.tile : -(-queries.stop // left.tile)]
    if sharded:
        rank, size = distributed.rank(), distributed.world_size()
        tiles = tiles[len(tiles) * rank // size : len(tiles) * (rank + 1) // size]
    return tiles


@dataclass(frozen=True)
class _Pairs:
    """Every match, sorted by query: ``query`` and ``item`` int64 (P,), ``level`` its cosine in units of ``GRID``."""

    query: np.ndarray
    item: np.ndarray
    level: Tensor

    @staticmethod
    def of(left: UnitRows, right: UnitRows, query_P: np.ndarray, item_P: np.ndarray) -> _Pairs:
        ends = (torch.from_numpy(x).to(left.device) for x in (query_P, item_P))
        return _Pairs(query_P, item_P, levels(left, right, *ends))


def _wanted_by_tile(
    side: UnitRows, row_P: np.ndarray, column_P: np.ndarray, level_P: Tensor
) -> list[WantedMatches]:
    order = np.argsort(row_P, kind="stable")
    sorted_P = row_P[order]
    found = []
    for begin, end in side.tiles():
        low, high = np.searchsorted(sorted_P, [begin, end])
        pair_p = order[low:high]
        found.append(
            WantedMatches.of(sorted_P[low:high] - begin, column_P[pair_p], pair_p, end - begin, level_P)
        )
    return found


def _count_rows(
    left: UnitRows,
    right: UnitRows,
    span: tuple[int, int],
    pairs: _Pairs,
    total: Tensor,
    columns: list[WantedMatches] | None,
) -> None:
    """Add one row of tiles to ``total`` (4, P): above, tied, and, with ``columns``, the same among the queries."""
    start, stop = span
    first, last = np.searchsorted(pairs.query, [start, stop])
    mine = np.arange(first, last)
    rows = WantedMatches.of(
        pairs.query[first:last] - start, pairs.item[first:last], mine, stop - start, pairs.level
    )
    fast = left.moderate and right.moderate and torch.get_float32_matmul_precision() == "highest"
    rows_CD = left.unit(start, stop) if fast else None
    spare = torch.empty(stop - start, right.tile, device=left.device)
    doubts, column_doubts = DoubtfulScores(), DoubtfulScores()
    for number, (begin, end) in enumerate(right.tiles()):
        rough = product(rows_CD, right.unit(begin, end).T) if rows_CD is not None else None
        tile = ScoreTile(left, right, span, (begin, end), rough, spare[:, : end - begin])
        tile.count(rows, total[:2], doubts)
        if columns is not None:
            tile.transpose().count(columns[number], total[2:], column_doubts)
    doubts.settle(left, right, pairs.level, total[:2])
    column_doubts.settle(right, left, pairs.level, total[2:])
