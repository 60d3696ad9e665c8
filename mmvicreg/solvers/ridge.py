"""Ridge regression of each branch into the whitened space of the other (the fixed targets of a ``Prediction``).

f = (C_xx / c + ridge)^-1 C_xy V / c predicts V y, y whitened; g the same from y. Scored by what each side predicts:
cos(f(x), V y) + balance cos(W x, g(y)).

F, G widths of two spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.grid import Grid, ridges_by_branch
from mmvicreg.solvers.solution import LinearPart, Solution
from mmvicreg.solvers.statistics.moments import Moments
from mmvicreg.solvers.whitening import Whitening, whitening_matrix

TARGET = "/target"
"""Suffix of the space of a branch that is predicted, where it is another than the one that predicts."""


@dataclass(frozen=True)
class Ridge:
    """Ridge regression into the whitened other branch, one way or both."""

    ridge: float = 0.1
    """regularization of the regression, in units of the mean eigenvalue of the inputs' covariance"""
    branches: dict[str, float] = field(default_factory=dict)
    """the same for single branches, as inputs"""
    target: Whitening = field(default_factory=Whitening)
    """whitening of what is predicted"""
    targets: dict[str, Whitening] = field(default_factory=dict)
    """the same for single branches, as targets"""
    direction: Literal["both", "first", "second"] = "both"
    """which branch predicts: both (the score is the sum of both cosines), or the first or second alone"""
    balance: float = 1.0
    """both: weight of the second branch's prediction"""

    def key(self) -> object:
        """``balance`` alone does not change the decomposition."""
        named = (
            tuple(sorted(self.branches.items())),
            tuple(sorted(self.targets.items(), key=lambda item: item[0])),
        )
        return ("Ridge", self.ridge, self.target, named, self.direction)

    def settings(self, grid: Grid, branches: Sequence[str]) -> list[Ridge]:
        """Every ridge of each branch and power of the target whitening of the grid."""
        powers = grid.target_power or (self.target.power,)
        return [
            replace(self, branches={**self.branches, **ridges}, target=replace(self.target, power=power))
            for ridges in ridges_by_branch(grid, branches)
            for power in powers
        ]

    def ridges(self, branches: Sequence[str]) -> tuple[float, ...]:
        """The ridge of each branch as input."""
        return tuple(self.branches.get(name, self.ridge) for name in branches)

    def decompose(
        self, moments: Moments, *, leading: int | None = None, dtype: torch.dtype = torch.float64
    ) -> dict[str, tuple[LinearPart, LinearPart]]:
        """Of each direction: the part of the branch that predicts, and that of the branch that is predicted. A
        regression has no strongest axes: ``leading`` and ``dtype`` change nothing."""
        first, second = _two_branches(moments)
        found = {}
        for source, target, direction in ((first, second, "first"), (second, first, "second")):
            if self.direction in ("both", direction):
                found[direction] = self._one_way(moments, source, target)
        return found

    def _one_way(self, moments: Moments, source: str, target: str) -> tuple[LinearPart, LinearPart]:
        space = target + TARGET if target + TARGET in moments.spaces else target
        whiten = whitening_matrix(target, moments.space(space), self.targets.get(target, self.target))
        weight = self.branches.get(source, self.ridge)
        regression = ridge_regression(moments, source, space, ridge=weight)
        return (
            LinearPart(source, moments.space(source).mean, regression @ whiten),
            LinearPart(space, moments.space(space).mean, whiten),
        )

    def heads(self, decomposition: object) -> Solution:
        """One part a branch for each direction."""
        found: Mapping[str, tuple[LinearPart, LinearPart]] = decomposition  # type: ignore[assignment]
        parts: dict[str, list[LinearPart]] = {}
        for direction, (predicting, predicted) in found.items():
            weight = self.balance**0.5 if direction == "second" else 1.0
            for part in (predicting, predicted):
                branch = part.space.removesuffix(TARGET)
                parts.setdefault(branch, []).append(LinearPart(part.space, part.mean, part.matrix, weight))
        return Solution({name: tuple(each) for name, each in parts.items()}, torch.zeros(0))


def ridge_regression(moments: Moments, source: str, target: str, *, ridge: float) -> Tensor:
    """(C_ss + ridge c)^-1 C_st, (F, G), c the mean eigenvalue of C_ss. Raises ValueError for a negative ridge or
    constant inputs; with ridge 0 the pseudo-inverse."""
    if ridge < 0:
        raise InvalidValueError(f"{source}: ridge is at least 0, found {ridge}")
    inverse = whitening_matrix(source, moments.space(source), Whitening(ridge=ridge, power=2.0))
    return inverse @ moments.cross(source, target)


def _two_branches(moments: Moments) -> tuple[str, str]:
    names = [name for name in moments.spaces if not name.endswith(TARGET)]
    if len(names) != 2:
        raise InvalidValueError(
            f"Ridge aligns two branches, found {len(names)} ({', '.join(names)}); choose MaxVar"
        )
    return names[0], names[1]
