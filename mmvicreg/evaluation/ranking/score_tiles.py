"""Scores of some rows with some columns, compared with the scores of the rows' matches: the work on one tile.

Comparisons are decided in fp64 on a grid (see ``match_counts``): a product in fp32 settles what is far from every
threshold, pairs of rows or a product in fp64 the rest.

Shapes: P matches; C rows and K columns of a tile, S matches of one row at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.evaluation.unit_rows import UnitRows

GRID = 2.0**-23
"""Cosines that round to the same multiple of this are tied."""
COMPARED = 16
"""Up to this many matches of a row, comparing with each is cheaper than sorting the row."""
EXACT_ROWS = 1024
"""Rows of a tile that are multiplied in fp64 at a time."""
SPARSE = 1 / 32
"""Up to this fraction of doubtful scores, computing each alone in fp64 is cheaper than a product of their rows."""


def levels(left: UnitRows, right: UnitRows, left_n: Tensor, right_n: Tensor) -> Tensor:
    """Cosine of each of these pairs of rows in units of ``GRID``, fp64 (n,); every pair by the same sum."""
    parts = [
        (left.exact(a) * right.exact(b)).sum(1)
        for a, b in zip(left_n.split(left.tile), right_n.split(left.tile), strict=True)
    ]
    score_n = torch.cat(parts) if parts else torch.zeros(0, device=left.device, dtype=torch.float64)
    return (score_n / GRID + 0.5).floor()


@dataclass(frozen=True)
class WantedMatches:
    """The matches of the rows of one tile: pair ``pair[i]`` belongs to row ``row[i]``, as its ``slot[i]``-th match.

    ``column[i]``: where its other end lies among all columns. ``low_CS``, ``high_CS``: the tied scores are low <= s <
    high, fp64, padded with infinity. ``match_CS``: the i of each row and slot.
    """

    row: Tensor
    slot: Tensor
    pair: Tensor
    column: Tensor
    low_CS: Tensor
    high_CS: Tensor
    match_CS: Tensor

    @staticmethod
    def of(
        row_p: np.ndarray, column_p: np.ndarray, pair_p: np.ndarray, rows: int, level_P: Tensor
    ) -> WantedMatches:
        """``row_p`` is sorted."""
        counts = np.bincount(row_p, minlength=rows)
        slot_p = np.arange(len(row_p)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, slot, pair, column = (
            torch.from_numpy(x).to(level_P.device) for x in (row_p, slot_p, pair_p, column_p)
        )
        level_CS = level_P.new_full((rows, int(counts.max(initial=0))), torch.inf)
        level_CS[row, slot] = level_P[pair]
        match_CS = torch.zeros_like(level_CS, dtype=torch.int64)
        match_CS[row, slot] = torch.arange(len(row), device=row.device)
        return WantedMatches(
            row, slot, pair, column, (level_CS - 0.5) * GRID, (level_CS + 0.5) * GRID, match_CS
        )

    def inside(self, begin: int, end: int) -> Tensor:
        """Which matches lie in columns begin..end."""
        return (self.column >= begin) & (self.column < end)


class DoubtfulScores:
    """Scores too near a threshold for fp32: their row and column among all, and the match whose threshold it is."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, row: Tensor, column: Tensor, pair: Tensor) -> None:
        self.parts.append((row, column, pair))

    def settle(self, left: UnitRows, right: UnitRows, level_P: Tensor, total_2P: Tensor) -> None:
        """Add those that score higher than their match, and those that score the same."""
        if not self.parts:
            return
        row, column, pair = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        level, own = levels(left, right, row, column), level_P[pair]
        total_2P[0].index_add_(0, pair, (level > own).long())
        total_2P[1].index_add_(0, pair, (level == own).long())


@dataclass(frozen=True)
class ScoreTile:
    """Scores of some rows with some columns; ``rough_CK`` in fp32, None where fp32 cannot be trusted."""

    left: UnitRows
    right: UnitRows
    rows: tuple[int, int]
    columns: tuple[int, int]
    rough_CK: Tensor | None
    spare_CK: Tensor
    """memory for comparisons, of the shape of the tile"""

    def transpose(self) -> ScoreTile:
        rough = None if self.rough_CK is None else self.rough_CK.T
        return ScoreTile(self.right, self.left, self.columns, self.rows, rough, self.spare_CK.T)

    def count(self, wanted: WantedMatches, total_2P: Tensor, doubts: DoubtfulScores) -> None:
        """Add, for each match of the rows, the columns that score higher and those that score the same; what remains
        to be settled goes to ``doubts``."""
        if not wanted.low_CS.shape[1]:
            return
        inside = wanted.inside(*self.columns)
        above_CS, tied_CS = torch.zeros_like(wanted.low_CS), torch.zeros_like(wanted.low_CS)
        again = torch.arange(len(wanted.low_CS), device=self.left.device)
        if self.rough_CK is not None:
            error = self._error()
            above_CS = _count(self.rough_CK, (wanted.high_CS + error).float(), self.spare_CK)
            near_CS = _count(self.rough_CK, (wanted.low_CS - error).float(), self.spare_CK) - above_CS
            tied_CS = torch.zeros_like(above_CS)
            tied_CS[wanted.row[inside], wanted.slot[inside]] = 1  # a match is near its own score
            doubtful_CS = near_CS - tied_CS
            again = doubtful_CS.any(1).nonzero()[:, 0]
            if doubtful_CS.sum() <= SPARSE * len(again) * self.rough_CK.shape[1]:
                self._doubt(doubtful_CS.nonzero(), wanted, doubts)
                again = again[:0]
        for part in again.split(EXACT_ROWS) if len(again) else ():
            scores = self._exact(part, wanted, inside)
            spare = torch.empty_like(scores)
            above = _count(scores, wanted.high_CS[part], spare)
            tied_CS[part] = (_count(scores, wanted.low_CS[part], spare) - above).to(tied_CS.dtype)
            above_CS[part] = above.to(above_CS.dtype)
        for row_P, count_CS in zip(total_2P, (above_CS, tied_CS), strict=True):
            row_P.index_add_(0, wanted.pair, count_CS[wanted.row, wanted.slot].long())

    def _doubt(self, chosen_n2: Tensor, wanted: WantedMatches, doubts: DoubtfulScores) -> None:
        """Note the doubtful scores of the chosen rows and slots."""
        assert self.rough_CK is not None
        for part_n2 in chosen_n2.split(EXACT_ROWS) if len(chosen_n2) else ():
            row, slot = part_n2.unbind(1)
            match = wanted.match_CS[row, slot]
            low, high = (limit[row, slot].unsqueeze(1) for limit in (wanted.low_CS, wanted.high_CS))
            scores, error = self.rough_CK[row], self._error()
            near = (scores >= (low - error).float()) & (scores < (high + error).float())
            place, column = near.nonzero().unbind(1)
            column = column + self.columns[0]
            other = column != wanted.column[match[place]]
            place = place[other]
            doubts.add(row[place] + self.rows[0], column[other], wanted.pair[match[place]])

    def _error(self) -> float:
        """The most by which a product in fp32 can differ: D roundings of a sum whose absolute values add up to at most
        1, and six of its factors (Higham 2002, section 3.1), with a margin."""
        return (self.left.rows.shape[1] + 16) * 2.0**-24

    def _exact(self, chosen: Tensor, wanted: WantedMatches, inside: Tensor) -> Tensor:
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

    def _near(self, chosen: Tensor, wanted: WantedMatches) -> tuple[Tensor, Tensor]:
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
