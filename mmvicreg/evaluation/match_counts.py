"""For every matching (query, item): how many items stand above it and level with it, and how many queries.

The score matrix is made tile by tile and never kept, so memory does not grow with it; counts add up over
tiles, and over processes. A match's own score is computed once, apart, and put into its tile, so that it
is compared with itself exactly; rows that are bit-identical are scored once and counted as often as they
occur, because matrix products do not give the same bits in every column. All else is compared as it is.

Shapes: Q queries, M items, D dimensions, U and V distinct rows of each, P matches, C and K rows and columns
of a tile, S matches of a row (or column) at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.numerics import product

TILE = {"cpu": 400, "cuda": 16384}
"""Rows and columns of a tile: 0.6 MB of scores on a CPU, 1 GB on a GPU."""
COMPARED = 16
"""Up to this many matches of a row, comparing with each is cheaper than sorting the row."""


@dataclass(frozen=True)
class Counts:
    """For match p, in the order of ``positives.pairs()``: all float64 or int64 (P,).

    ``score``: its cosine. ``above``, ``tied``: items that score higher with its query, and equal (itself
    included). ``queries_above``, ``queries_tied``: the same among the queries, for its item.
    """

    score: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    queries_above: np.ndarray
    queries_tied: np.ndarray


class _Side:
    """The distinct rows of queries or items, in unit length, by tile."""

    def __init__(self, rows_ND: Tensor | np.ndarray, name: str, tile: int, device: torch.device) -> None:
        self.name, self.tile, self.device = name, tile, device
        # A GPU holds the rows; a CPU reads them tile by tile, from a memory map too.
        self.rows = rows_ND if device.type == "cpu" else _tensor(rows_ND[:]).to(device)
        hashes = np.concatenate([_hashes(rows_ND[a : a + tile]) for a in range(0, len(rows_ND), tile)])
        _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
        # In order of first occurrence, not of hashes: Python salts those, another way in every process.
        order = np.argsort(first)
        self.first, self.place = first[order], np.argsort(order)[place]
        self.weight = np.bincount(self.place)
        self.repeats = len(self.first) < len(rows_ND)
        self.inverse_norm = torch.cat([self._inverse_norms(*span) for span in self.tiles()])

    def __len__(self) -> int:
        return len(self.first)

    def unit(self, start: int, stop: int) -> Tensor:
        """Distinct rows start..stop in fp32 and unit length (a zero row stays zero: it ties with all)."""
        return self._distinct(start, stop) * self.inverse_norm[start:stop, None]

    def gather(self, places: np.ndarray) -> Tensor:
        """These distinct rows."""
        where = torch.from_numpy(places).to(self.device)
        return self._fp32(self.rows[self.first[places]]) * self.inverse_norm[where, None]

    def _fp32(self, rows: Tensor | np.ndarray) -> Tensor:
        return _tensor(rows).to(self.device, torch.float32)

    def _distinct(self, start: int, stop: int) -> Tensor:
        return self._fp32(self.rows[self.first[start:stop]] if self.repeats else self.rows[start:stop])

    def _inverse_norms(self, start: int, stop: int) -> Tensor:
        # Not linalg.vector_norm: in fp32 on a CPU it is off by up to 7e-4.
        norm_n = self._distinct(start, stop).square().sum(1).sqrt()
        if not bool(norm_n.isfinite().all()):
            row = self.first[start + int((~norm_n.isfinite()).nonzero()[0, 0])]
            raise InvalidValueError(
                f"row {row} of the {self.name} is not finite (or overflows fp32); check the checkpoint"
            )
        return torch.where(norm_n > 0, norm_n.reciprocal(), 0.0)

    def tiles(self) -> list[tuple[int, int]]:
        return [(a, min(a + self.tile, len(self))) for a in range(0, len(self), self.tile)]

    def weights(self, start: int, stop: int) -> Tensor | None:
        """How often each row occurs; None where all occur once."""
        if not self.repeats:
            return None
        return torch.from_numpy(self.weight[start:stop]).to(self.device, torch.float32)


def _tensor(rows: Tensor | np.ndarray) -> Tensor:
    if isinstance(rows, Tensor):
        return rows
    return torch.from_numpy(np.require(rows, requirements=["W", "C"]))  # torch warns about read-only maps


def _hashes(rows: Tensor | np.ndarray) -> np.ndarray:
    block_ND = _tensor(rows).float().cpu().contiguous().numpy()
    return np.array([hash(row.tobytes()) for row in block_ND], dtype=np.int64)


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
) -> Counts:
    """Counts of every match, by cosine in fp32. ``both`` counts among the queries too (else those are 0).

    Any float dtype, torch or NumPy (memory-mapped too). ``sharded``: each process of the default group takes
    a range of tiles, every process gets the whole result; tiles are the same for any number of processes,
    and so are the bits. ``queries`` counts for these queries only (the others' counts are 0).

    Raises ValueError on shapes that do not fit, and on non-finite rows.
    """
    _check(queries_QD, items_MD, positives)
    device = torch.device(device)
    tile = tile or TILE[device.type]
    left = _Side(queries_QD, "queries", tile, device)
    right = _Side(items_MD, "items", tile, device)
    query_n, item_n = positives.pairs()
    pair_P, where_P = np.unique(left.place[query_n] * len(right) + right.place[item_n], return_inverse=True)
    u_P, v_P = pair_P // len(right), pair_P % len(right)
    score_P = _own_scores(left, right, u_P, v_P)
    total = torch.zeros(4, len(pair_P), device=device, dtype=torch.int64)
    tiles = left.tiles()
    if queries is not None:
        wanted = np.unique(left.place[queries.start : queries.stop] // tile)
        tiles = [tiles[i] for i in wanted]
    if sharded:
        rank, size = distributed.rank(), distributed.world_size()
        tiles = tiles[len(tiles) * rank // size : len(tiles) * (rank + 1) // size]
    columns = _wanted_by_tile(right, v_P, score_P) if both else None
    with torch.autocast(device.type, enabled=False):
        for start, stop in tiles:
            _count_rows(left, right, (start, stop), u_P, v_P, score_P, total, columns)
    if sharded:
        total = distributed.all_reduce_sum(total)
    found = total.cpu().numpy()[:, where_P]
    return Counts(score_P.double().cpu().numpy()[where_P], *found)


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


def _own_scores(left: _Side, right: _Side, u_P: np.ndarray, v_P: np.ndarray) -> Tensor:
    parts = [
        (left.gather(u_P[a : a + left.tile]) * right.gather(v_P[a : a + left.tile])).sum(1)
        for a in range(0, len(u_P), left.tile)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=left.device)


@dataclass(frozen=True)
class _Wanted:
    """The scores that each row (or column) of a tile is compared with: ``score_CS``, padded with infinity.

    Pair ``pair[i]`` is that at ``row[i]``, ``slot[i]``.
    """

    score_CS: Tensor
    row: Tensor
    slot: Tensor
    pair: Tensor

    @staticmethod
    def of(row_p: np.ndarray, pair_p: np.ndarray, rows: int, score_P: Tensor) -> _Wanted:
        """``row_p`` is sorted."""
        counts = np.bincount(row_p, minlength=rows)
        slot_p = np.arange(len(row_p)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, slot, pair = (torch.from_numpy(x).to(score_P.device) for x in (row_p, slot_p, pair_p))
        score_CS = score_P.new_full((rows, int(counts.max(initial=0))), torch.inf)
        score_CS[row, slot] = score_P[pair]
        return _Wanted(score_CS, row, slot, pair)


def _wanted_by_tile(side: _Side, place_P: np.ndarray, score_P: Tensor) -> list[_Wanted]:
    order = np.argsort(place_P, kind="stable")
    sorted_P = place_P[order]
    found = []
    for begin, end in side.tiles():
        low, high = np.searchsorted(sorted_P, [begin, end])
        found.append(_Wanted.of(sorted_P[low:high] - begin, order[low:high], end - begin, score_P))
    return found


def _count_rows(
    left: _Side,
    right: _Side,
    span: tuple[int, int],
    u_P: np.ndarray,
    v_P: np.ndarray,
    score_P: Tensor,
    total: Tensor,
    columns: list[_Wanted] | None,
) -> None:
    """Add one row of tiles to ``total`` (4, P): above, tied, and, with ``columns``, the same among queries."""
    start, stop = span
    device = left.device
    rows_CD = left.unit(start, stop)
    first, last = np.searchsorted(u_P, [start, stop])  # pairs are sorted by query
    mine = np.arange(first, last)
    rows = _Wanted.of(u_P[first:last] - start, mine, stop - start, score_P)
    spare = torch.empty(stop - start, right.tile, device=device)
    for number, (begin, end) in enumerate(right.tiles()):
        spare_CK = spare[:, : end - begin]
        scores_CK = product(rows_CD, right.unit(begin, end).T)
        inside = mine[(v_P[mine] >= begin) & (v_P[mine] < end)]
        place = torch.from_numpy(np.stack([u_P[inside] - start, v_P[inside] - begin])).to(device)
        scores_CK[place[0], place[1]] = score_P[torch.from_numpy(inside).to(device)]
        _add(scores_CK, spare_CK, rows, total[:2], right.weights(begin, end))
        if columns is not None:
            _add(scores_CK.T, spare_CK.T, columns[number], total[2:], left.weights(start, stop))


def _add(
    scores_CK: Tensor, spare_CK: Tensor, wanted: _Wanted, total_2P: Tensor, weight_K: Tensor | None
) -> None:
    """Count along each row what lies above its pairs' scores and level with them."""
    counts = _compare(scores_CK, spare_CK, wanted.score_CS, weight_K)
    for row_P, count_CS in zip(total_2P, counts, strict=True):
        row_P.index_add_(0, wanted.pair, count_CS[wanted.row, wanted.slot].long())


def _compare(
    scores_CK: Tensor, spare_CK: Tensor, wanted_CS: Tensor, weight_K: Tensor | None
) -> Iterator[Tensor]:
    """Entries above and equal, each (C, S)."""
    if wanted_CS.shape[1] > COMPARED and weight_K is None:
        ordered_CK = scores_CK.sort(
            dim=1
        ).values.contiguous()  # of a transposed tile it is not, and torch warns
        wanted_CS = wanted_CS.contiguous()
        up_to_CS = torch.searchsorted(ordered_CK, wanted_CS, right=True)
        yield scores_CK.shape[1] - up_to_CS
        yield up_to_CS - torch.searchsorted(ordered_CK, wanted_CS)
        return
    for compare in (torch.gt, torch.eq):
        # Comparing into fp32 and summing that is 20 times faster on a CPU than summing booleans; exact to 2^24.
        columns = []
        for wanted_C1 in wanted_CS.split(1, dim=1) if wanted_CS.shape[1] else ():
            compare(scores_CK, wanted_C1, out=spare_CK)
            columns.append(spare_CK.sum(1) if weight_K is None else spare_CK @ weight_K)
        yield torch.stack(columns, 1) if columns else wanted_CS
