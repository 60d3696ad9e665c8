"""Solvers of two branches by one singular value decomposition: CCA, partial least squares, orthogonal Procrustes.

CCA: maximize correlation; T = Wx Cxy Wy = U S V', maps Wx U S^p and Wy V S^p (Hotelling 1936; weighting the axes by
their correlation: CSA, arXiv 2410.07610). PLS: the same without whitening, in which S are covariances (PLS-SVD,
Wegelin 2000). Procrustes: U and V of the unwhitened T with equal weights (Schönemann 1966).

F, G widths of two spaces, K axes, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.grid import Grid, ridges_by_branch
from mmvicreg.solvers.solution import LinearPart, Solution
from mmvicreg.solvers.statistics.moments import Moments
from mmvicreg.solvers.whitening import (
    Axes,
    TriangularFactor,
    Whitening,
    WhiteningFactor,
    fix_signs,
    triangular_factor,
    whitening_factor,
)

Factor = WhiteningFactor | TriangularFactor


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

    def ridges(self, branches: Sequence[str]) -> tuple[float, ...]:
        """The ridge of each branch."""
        return ridges_of(self.whitening, self.branches, branches)

    def decompose(
        self, moments: Moments, *, leading: int | None = None, dtype: torch.dtype = torch.float64
    ) -> Axes:
        """Canonical axes and correlations; with ``leading`` only so many, in ``dtype``
        (fp32 is enough to compare settings).

        Raises ValueError unless there are exactly two spaces.
        """
        factors = dict[str, Factor]()
        with ExitStack() as held:
            for name in two_spaces(moments, "CCA"):
                whitening, space = self.branches.get(name, self.whitening), moments.space(name)
                triangular = None
                if (
                    dtype == torch.float64
                ):  # in fp32 settings are compared, whose ridges share the eigenvectors
                    triangular = held.enter_context(triangular_factor(name, space, whitening))
                factors[name] = triangular or whitening_factor(name, space, whitening)
            return paired_axes(moments, factors, leading=leading, dtype=dtype)

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

    def ridges(self, branches: Sequence[str]) -> tuple[float, ...]:
        """None: nothing is whitened."""
        return ()

    def decompose(
        self, moments: Moments, *, leading: int | None = None, dtype: torch.dtype = torch.float64
    ) -> Axes:
        """Singular axes of the cross-covariance; ``leading`` as in :class:`CCA`."""
        return paired_axes(moments, unwhitened(moments, "PLS"), leading=leading, dtype=dtype)

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

    def ridges(self, branches: Sequence[str]) -> tuple[float, ...]:
        """None: nothing is whitened."""
        return ()

    def decompose(
        self, moments: Moments, *, leading: int | None = None, dtype: torch.dtype = torch.float64
    ) -> Axes:
        """Singular axes of the cross-covariance; all of them, whatever ``leading`` says,
        in fp64."""
        return paired_axes(moments, unwhitened(moments, "Procrustes"))

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


def ridges_of(
    default: Whitening, branches: Mapping[str, Whitening], names: Sequence[str]
) -> tuple[float, ...]:
    """The ridge of the whitening of each branch."""
    return tuple(branches.get(name, default).ridge for name in names)


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


def unwhitened(moments: Moments, solver: str) -> dict[str, None]:
    """No whitening of either space."""
    return dict.fromkeys(two_spaces(moments, solver))


def paired_axes(
    moments: Moments,
    factors: Mapping[str, Factor | None],
    *,
    leading: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Axes:
    """Axes of the cross-covariance of two spaces between their whitenings (None: none); with ``leading`` only so many,
    in ``dtype``. ValueError where the two branches do not vary together."""
    first, second = factors
    target = _whitened_cross(moments, factors)
    scale = target.abs().max()
    if not float(scale) > 0:
        raise InvalidValueError(f"{first!r} and {second!r} do not vary together: their cross-covariance is 0")
    target = target.to(dtype) / float(scale)
    left, strengths, right = _all_axes(target) if leading is None else _leading_axes(target, leading)
    del target
    left = left if (factor := factors[first]) is None else factor.axes(left)
    right = right if (factor := factors[second]) is None else factor.axes(right)
    left, right = fix_signs(left, right)
    means = {name: moments.space(name).mean for name in factors}
    return Axes({first: left, second: right}, means, strengths.double() * scale)


def _whitened_cross(moments: Moments, factors: Mapping[str, Factor | None]) -> torch.Tensor:
    """F' cross G of the factors F and G of two whitenings, (F, G)."""
    (first, left), (second, right) = factors.items()
    cross = moments.cross(first, second)
    if left is None or right is None:
        return cross
    if isinstance(left, WhiteningFactor) and isinstance(right, WhiteningFactor):
        own = ((first, left), (second, right))
        if all(moments.space(name).eigen[1] is each.vectors for name, each in own):
            return left.powers[:, None] * moments.rotated_cross(first, second) * right.powers
    return right.whiten(left.whiten(cross).T).T


def _all_axes(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every singular axis whose strength is not rounding."""
    left, strengths, vt = torch.linalg.svd(target, full_matrices=False)
    rank = int((strengths > 1e-12 * strengths[0]).sum())
    return left[:, :rank], strengths[:rank], vt[:rank].T


def _leading_axes(target: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The strongest singular axes by the eigenvalues of the smaller Gram matrix: a third to a half of the time of a
    singular value decomposition. An axis of the strength s has the relative error eps / s^2, so the weakest are
    dropped."""
    wide = target.shape[0] < target.shape[1]
    tall = target.T if wide else target
    values, vectors = torch.linalg.eigh(tall.T @ tall)
    kept = min(count, int((values > 10 * torch.finfo(values.dtype).eps * len(values) * values[-1]).sum()))
    vectors = vectors[:, -kept:].flip(1)
    strengths = values[-kept:].flip(0).sqrt()
    others = (tall @ vectors).div_(strengths)
    return (vectors, strengths, others) if wide else (others, strengths, vectors)


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
