"""The settings that a solver is tried with on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal


@dataclass(frozen=True)
class Grid:
    """Settings among which the validation data choose; an empty tuple keeps what the solver says."""

    ridge: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """of each branch (CCA, MaxVar: of the whitening; Ridge: of the regression), in ascending order"""
    axis_power: tuple[float, ...] = (0.5, 0.75, 1.0)
    """of CCA, PLS and MaxVar"""
    width: tuple[int, ...] = ()
    """of CCA, PLS and MaxVar"""
    bandwidth: tuple[float, ...] = (0.7, 1.0)
    """of kernels, the same for all branches"""
    features: int = 512
    """landmarks or random features while bandwidths are compared; the ridges are compared with all of them"""
    target_power: tuple[float, ...] = ()
    """of Ridge: power of the whitening of what is predicted"""
    search: Literal["descent", "all"] = "descent"
    """descent: from the middle ridge of each branch to neighbours as long as one is better; all: every combination"""


def ridges_by_branch(grid: Grid, branches: Sequence[str]) -> list[dict[str, float]]:
    """Every combination of the grid's ridges, {branch: ridge}; a single empty one where the grid has no ridge."""
    if not grid.ridge:
        return [{}]
    return [dict(zip(branches, each, strict=True)) for each in product(grid.ridge, repeat=len(branches))]
