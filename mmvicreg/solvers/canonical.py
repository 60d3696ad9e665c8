"""Solvers of two branches by one singular value decomposition: CCA, partial least squares, orthogonal Procrustes.

CCA: maximize correlation; T = Wx Cxy Wy = U S V', maps Wx U S^p and Wy V S^p (Hotelling 1936; weighting the axes by
their correlation: CSA, arXiv 2410.07610). PLS: the same without whitening, in which S are covariances (PLS-SVD,
Wegelin 2000). Procrustes: U and V of the unwhitened T with equal weights (Schönemann 1966).

F, G widths of two spaces, K axes, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.grid import Grid, ridges_by_branch
from mmvicreg.solvers.moments import Moments
from mmvicreg.solvers.solution import LinearPart, Solution
from mmvicreg.solvers.whitening import Axes, Whitening, fix_signs, whitening_matrix


@dataclass(frozen=True)
class CCA:
    """Regularized canonical correlation analysis of two branches, its axes weighted by their correlation."""

    whitening: Whitening = field(default_factory=Whitening)
    """whitening of branches that ``branches`` does not name"""
    branches: dict[str, Whitening] = field(default_factory=dict)
    """whitening of each branch by name"""
    axis_power: float = 0.5
    """each axis is multiplied by its correlation to this power, on both branches"""
    width: int = 384
    """width of the embeddings: the strongest axes; fewer where the data have fewer"""

    def key(self) -> object:
        """Width and axis power do not change the decomposition."""
        return ("CCA", self.whitening, tuple(sorted(self.branches.items(), key=lambda item: item[0])))

    def settings(self, grid: Grid, branches: Sequence[str]) -> list[CCA]:
        """Every ridge of each branch, axis power and width of the grid."""
        found = []
        for ridges in ridges_by_branch(grid, branches):
            whitenings = with_ridges(self.whitening, self.branches, ridges)
            for power, width in axes_of_grid(grid, self.axis_power, self.width):
                found.append(replace(self, branches=whitenings, axis_power=power, width=width))
        return found

    def decompose(self, moments: Moments) -> Axes:
        """Canonical axes and correlations. Raises ValueError unless there are exactly two spaces."""
        first, second = two_spaces(moments, "CCA")
        matrices = {
            name: whitening_matrix(name, moments.space(name), self.branches.get(name, self.whitening))
            for name in (first, second)
        }
        return paired_axes(moments, first, second, matrices)

    def heads(self, decomposition: object) -> Solution:
        """The strongest axes, weighted."""
        assert isinstance(decomposition, Axes)
        return weighted_axes(decomposition, width=self.width, power=self.axis_power)


@dataclass(frozen=True)
class PLS:
    """Partial least squares by singular value decomposition: axes of largest covariance, without whitening."""

    axis_power: float = 0.0
    """each axis is multiplied by its covariance, as a fraction of the largest, to this power"""
    width: int = 384
    """width of the embeddings: the strongest axes; fewer where the data have fewer"""

    def key(self) -> object:
        """The decomposition has no settings."""
        return "PLS"

    def settings(self, grid: Grid, branches: Sequence[str]) -> list[PLS]:
        """Every axis power and width of the grid."""
        chosen = axes_of_grid(grid, self.axis_power, self.width)
        return [replace(self, axis_power=power, width=width) for power, width in chosen]

    def decompose(self, moments: Moments) -> Axes:
        """Singular axes of the cross-covariance."""
        return paired_axes(moments, *two_spaces(moments, "PLS"), {})

    def heads(self, decomposition: object) -> Solution:
        """The strongest axes, weighted."""
        assert isinstance(decomposition, Axes)
        return weighted_axes(decomposition, width=self.width, power=self.axis_power)


@dataclass(frozen=True)
class Procrustes:
    """The rotation of one branch onto the other: lengths and angles within a branch stay (up to the directions of the
    wider branch that have no counterpart)."""

    def key(self) -> object:
        """The decomposition has no settings."""
        return "PLS"

    def settings(self, grid: Grid, branches: Sequence[str]) -> list[Procrustes]:
        """Itself: a rotation has no settings."""
        return [self]

    def decompose(self, moments: Moments) -> Axes:
        """Singular axes of the cross-covariance."""
        return paired_axes(moments, *two_spaces(moments, "Procrustes"), {})

    def heads(self, decomposition: object) -> Solution:
        """Every axis with the weight 1."""
        assert isinstance(decomposition, Axes)
        return weighted_axes(decomposition, width=len(decomposition.strengths), power=0.0)


def with_ridges(
    default: Whitening, branches: Mapping[str, Whitening], ridges: Mapping[str, float]
) -> dict[str, Whitening]:
    """The whitening of each branch with the ridge given for it."""
    changed = {name: replace(branches.get(name, default), ridge=ridge) for name, ridge in ridges.items()}
    return {**branches, **changed}


def axes_of_grid(grid: Grid, power: float, width: int) -> list[tuple[float, int]]:
    """Every (axis power, width) of the grid; the solver's own where the grid has none."""
    return list(product(grid.axis_power or (power,), grid.width or (width,)))


def two_spaces(moments: Moments, solver: str) -> tuple[str, str]:
    """The names of the only pair. Raises ValueError for another number of branches."""
    names = tuple(moments.spaces)
    if len(names) != 2:
        raise InvalidValueError(
            f"{solver} aligns two branches, found {len(names)} ({', '.join(names)}); choose MaxVar for more"
        )
    return names[0], names[1]


def paired_axes(moments: Moments, first: str, second: str, matrices: dict[str, torch.Tensor]) -> Axes:
    """Axes of the cross-covariance between ``matrices`` (identity where a space has none). ValueError where the two
    branches do not vary together."""
    cross = moments.cross(first, second)
    scale = cross.abs().max()
    if not float(scale) > 0:
        raise InvalidValueError(f"{first!r} and {second!r} do not vary together: their cross-covariance is 0")
    target = cross / scale
    if first in matrices:
        target = matrices[first] @ target
    if second in matrices:
        target = target @ matrices[second]
    u, strengths, vt = torch.linalg.svd(target, full_matrices=False)
    rank = int((strengths > 1e-12 * strengths[0]).sum())
    left, right = fix_signs(u[:, :rank], vt[:rank].T)
    maps = {
        first: matrices[first] @ left if first in matrices else left,
        second: matrices[second] @ right if second in matrices else right,
    }
    means = {name: moments.space(name).mean for name in (first, second)}
    return Axes(maps, means, strengths[:rank] * scale)


def weighted_axes(axes: Axes, *, width: int, power: float) -> Solution:
    """Heads of the ``width`` strongest axes, each times its strength (as a fraction of the largest) to ``power``.

    Raises ValueError for a width below 1.
    """
    if width < 1:
        raise InvalidValueError(f"width is {width}; the embeddings have at least 1 dimension")
    kept = min(width, len(axes.strengths))
    weights = (axes.strengths[:kept] / axes.strengths[0]) ** power
    parts = {
        name: (LinearPart(name, axes.means[name], matrix[:, :kept] * weights),)
        for name, matrix in axes.maps.items()
    }
    return Solution(parts, axes.strengths)
