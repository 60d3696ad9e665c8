"""For every matching (query, item): how many items score higher and how many the same, and how many queries.

Two cosines are the same if they round to the same multiple of ``GRID``, the spacing of fp32 numbers just below 1.
Being the same is therefore transitive, and embeddings that differ by rounding alone are tied: a collapsed model scores
chance. The comparison is decided in fp64. A matrix product in fp32 comes first and settles every row for which no score
is closer to a threshold than fp32's error; the other rows are multiplied again in fp64. Both operands of a comparison
thus have the same precision, and the result does not depend on the tile, the processor or the number of processes.

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
from mmvicreg.evaluation.unit_rows import UnitRows
from mmvicreg.numerics import product

GRID = 2.0**-23
"""Cosines that round to the same multiple of this are tied."""
TILE = {"cpu": 400, "cuda": 16384}
"""Rows and columns of a tile: 0.6 MB of scores on a CPU, 1 GB on a GPU."""
COMPARED = 16
"""Up to this many matches of a row, comparing with each is cheaper than sorting the row."""
EXACT_ROWS = 1024
"""Rows of a tile that are multiplied in fp64 at a time."""


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
        ends = (torch.from_numpy(x).to(left.device).split(left.tile) for x in (query_P, item_P))
        parts = [(left.exact(q) * right.exact(m)).sum(1) for q, m in zip(*ends, strict=True)]
        score_P = torch.cat(parts) if parts else torch.zeros(0, device=left.device, dtype=torch.float64)
        return _Pairs(query_P, item_P, (score_P / GRID + 0.5).floor())


@dataclass(frozen=True)
class _Wanted:
    """The matches of the rows of one tile: pair ``pair[i]`` belongs to row ``row[i]``, as its ``slot[i]``-th match.

    ``column[i]``: where its other end lies among all columns. ``low_CS``, ``high_CS``: the tied scores are low <= s <
    high, fp64, padded with infinity.
    """

    row: Tensor
    slot: Tensor
    pair: Tensor
    column: Tensor
    low_CS: Tensor
    high_CS: Tensor

    @staticmethod
    def of(
        row_p: np.ndarray, column_p: np.ndarray, pair_p: np.ndarray, rows: int, level_P: Tensor
    ) -> _Wanted:
        """``row_p`` is sorted."""
        counts = np.bincount(row_p, minlength=rows)
        slot_p = np.arange(len(row_p)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, slot, pair, column = (
            torch.from_numpy(x).to(level_P.device) for x in (row_p, slot_p, pair_p, column_p)
        )
        level_CS = level_P.new_full((rows, int(counts.max(initial=0))), torch.inf)
        level_CS[row, slot] = level_P[pair]
        return _Wanted(row, slot, pair, column, (level_CS - 0.5) * GRID, (level_CS + 0.5) * GRID)

    def inside(self, begin: int, end: int) -> Tensor:
        """Which matches lie in columns begin..end."""
        return (self.column >= begin) & (self.column < end)


def _wanted_by_tile(
    side: UnitRows, row_P: np.ndarray, column_P: np.ndarray, level_P: Tensor
) -> list[_Wanted]:
    order = np.argsort(row_P, kind="stable")
    sorted_P = row_P[order]
    found = []
    for begin, end in side.tiles():
        low, high = np.searchsorted(sorted_P, [begin, end])
        pair_p = order[low:high]
        found.append(_Wanted.of(sorted_P[low:high] - begin, column_P[pair_p], pair_p, end - begin, level_P))
    return found


def _count_rows(
    left: UnitRows,
    right: UnitRows,
    span: tuple[int, int],
    pairs: _Pairs,
    total: Tensor,
    columns: list[_Wanted] | None,
) -> None:
    """Add one row of tiles to ``total`` (4, P): above, tied, and, with ``columns``, the same among the queries."""
    start, stop = span
    first, last = np.searchsorted(pairs.query, [start, stop])
    mine = np.arange(first, last)
    rows = _Wanted.of(
        pairs.query[first:last] - start, pairs.item[first:last], mine, stop - start, pairs.level
    )
    fast = left.moderate and right.moderate and torch.get_float32_matmul_precision() == "highest"
    rows_CD = left.unit(start, stop) if fast else None
    spare = torch.empty(stop - start, right.tile, device=left.device)
    for number, (begin, end) in enumerate(right.tiles()):
        rough = product(rows_CD, right.unit(begin, end).T) if rows_CD is not None else None
        tile = _Tile(left, right, span, (begin, end), rough, spare[:, : end - begin])
        tile.count(rows, total[:2])
        if columns is not None:
            tile.transpose().count(columns[number], total[2:])


@dataclass(frozen=True)
class _Tile:
    """Scores of some rows with some columns; ``rough_CK`` in fp32, None where fp32 cannot be trusted."""

    left: UnitRows
    right: UnitRows
    rows: tuple[int, int]
    columns: tuple[int, int]
    rough_CK: Tensor | None
    spare_CK: Tensor
    """memory for comparisons, of the shape of the tile"""

    def transpose(self) -> _Tile:
        rough = None if self.rough_CK is None else self.rough_CK.T
        return _Tile(self.right, self.left, self.columns, self.rows, rough, self.spare_CK.T)

    def count(self, wanted: _Wanted, total_2P: Tensor) -> None:
        """Add, for each match of the rows, the columns that score higher and those that score the same."""
        if not wanted.low_CS.shape[1]:
            return
        inside = wanted.inside(*self.columns)
        above_CS, at_least_CS = torch.zeros_like(wanted.low_CS), torch.zeros_like(wanted.low_CS)
        again = torch.arange(len(wanted.low_CS), device=self.left.device)
        if self.rough_CK is not None:
            error = self._error()
            above_CS = _count(self.rough_CK, (wanted.high_CS + error).float(), self.spare_CK)
            at_least_CS = _count(self.rough_CK, (wanted.low_CS - error).float(), self.spare_CK)
            own_CS = torch.zeros_like(above_CS)
            own_CS[wanted.row[inside], wanted.slot[inside]] = 1
            again = (at_least_CS - above_CS > own_CS).any(1).nonzero()[:, 0]
        for part in again.split(EXACT_ROWS):
            scores = self._exact(part, wanted, inside)
            spare = torch.empty_like(scores)
            above_CS[part] = _count(scores, wanted.high_CS[part], spare).to(above_CS.dtype)
            at_least_CS[part] = _count(scores, wanted.low_CS[part], spare).to(above_CS.dtype)
        for row_P, count_CS in zip(total_2P, (above_CS, at_least_CS - above_CS), strict=True):
            row_P.index_add_(0, wanted.pair, count_CS[wanted.row, wanted.slot].long())

    def _error(self) -> float:
        """The most by which a product in fp32 can differ: D roundings of a sum whose absolute values add up to at most
        1, and six of its factors (Higham 2002, section 3.1), with a margin."""
        return (self.left.rows.shape[1] + 16) * 2.0**-24

    def _exact(self, chosen: Tensor, wanted: _Wanted, inside: Tensor) -> Tensor:
        """The scores of the chosen rows, in fp64 wherever they are near a threshold; the matches' own are exactly those
        that were rounded to the grid."""
        scores, columns = self._near(chosen, wanted)
        first, start = self.columns[0], self.rows[0]
        scores[:, columns] = self.left.exact(start + chosen) @ self.right.exact(first + columns).T
        place = chosen.new_full((self.rows[1] - start,), -1)
        place[chosen] = torch.arange(len(chosen), device=chosen.device)
        own = inside & (place[wanted.row] >= 0)
        row, slot = wanted.row[own], wanted.slot[own]
        middle = (wanted.low_CS[row, slot] + wanted.high_CS[row, slot]) / 2
        scores[place[row], wanted.column[own] - first] = middle
        return scores

    def _near(self, chosen: Tensor, wanted: _Wanted) -> tuple[Tensor, Tensor]:
        """The scores of the chosen rows as they are, and the columns where one may be on either side of a threshold."""
        width = self.columns[1] - self.columns[0]
        if self.rough_CK is None:
            scores = torch.empty((len(chosen), width), dtype=torch.float64, device=chosen.device)
            return scores, torch.arange(width, device=chosen.device)
        scores, high_CS = self.rough_CK[chosen].double(), wanted.high_CS[chosen]
        low_C1 = wanted.low_CS[chosen].amin(1, keepdim=True) - self._error()
        high_C1 = torch.where(high_CS.isinf(), -torch.inf, high_CS).amax(1, keepdim=True) + self._error()
        return scores, ((scores >= low_C1) & (scores <= high_C1)).any(0).nonzero()[:, 0]


def _count(scores_CK: Tensor, threshold_CS: Tensor, spare_CK: Tensor) -> Tensor:
    """How many scores of each row are at least each threshold, (C, S)."""
    if threshold_CS.shape[1] > COMPARED:
        ordered_CK = scores_CK.sort(
            dim=1
        ).values.contiguous()  # of a transposed tile it is not, and torch warns
        below_CS = torch.searchsorted(ordered_CK, threshold_CS.contiguous())
        return (scores_CK.shape[1] - below_CS).to(scores_CK.dtype)
    # Comparing into floats and summing those is 20 times faster on a CPU than summing booleans; exact to 2^24.
    columns = []
    for threshold_C1 in threshold_CS.split(1, dim=1):
        torch.ge(scores_CK, threshold_C1, out=spare_CK)
        columns.append(spare_CK.sum(1))
    return torch.stack(columns, 1)
