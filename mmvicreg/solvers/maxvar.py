"""MAXVAR generalized CCA of two branches or more (Kettenring 1971; regularized: Tenenhaus and Tenenhaus 2011).

The axes are the leading eigenvectors of the block matrix T with T_ab = weight_ab Wa Cab Wb for the chosen pairs and
identities on the diagonal: per branch, Wa times its block. Two branches: CCA, eigenvalue 1 + correlation.

F width of a space, K axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.canonical import axes_of_grid, ridges_of, weighted_axes, with_ridges
from mmvicreg.solvers.grid import Grid, ridges_by_branch
from mmvicreg.solvers.solution import Solution
from mmvicreg.solvers.statistics.moments import Moments
from mmvicreg.solvers.whitening import Axes, Whitening, fix_signs, whitening_matrix


@dataclass(frozen=True)
class MaxVar:
    """MAXVAR generalized CCA over the pairs whose moments were counted."""

    whitening: Whitening = field(default_factory=Whitening)
    """whitening of branches that ``branches`` does not name"""
    branches: dict[str, Whitening] = field(default_factory=dict)
    """whitening of each branch by name"""
    axis_power: float = 0.5
    """each axis is multiplied by its eigenvalue minus 1 (for two branches: its correlation) to this power"""
    width: int = 384
    """width of the embeddings: the strongest axes; fewer where the data have fewer"""

    def key(self) -> object:
        """Width and axis power do not change the decomposition."""
        return ("MaxVar", self.whitening, tuple(sorted(self.branches.items(), key=lambda item: item[0])))

    def settings(self, grid: Grid, branches: Sequence[str]) -> list[MaxVar]:
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
        """Axes of all branches, strongest first; all of them, whatever ``leading`` says,
        in fp64.

        Raises ValueError where a branch is in no pair.
        """
        names = list(moments.spaces)
        paired = {name for pair in moments.pairs for name in pair}
        alone = sorted(set(names) - paired)
        if alone or len(names) < 2:
            raise InvalidValueError(f"MaxVar needs every branch in a pair; {alone or names} is in none")
        matrices = {
            name: whitening_matrix(name, moments.space(name), self.branches.get(name, self.whitening))
            for name in names
        }
        widths = [len(matrices[name]) for name in names]
        starts = [sum(widths[:number]) for number in range(len(names))]
        block = torch.zeros((sum(widths), sum(widths)), dtype=torch.float64, device=matrices[names[0]].device)
        for first, second in moments.pairs:
            a, b = names.index(first), names.index(second)
            whitened = matrices[first] @ moments.cross(first, second) @ matrices[second]
            rows, columns = slice(starts[a], starts[a] + widths[a]), slice(starts[b], starts[b] + widths[b])
            block[rows, columns] = whitened
            block[columns, rows] = whitened.T
        return self._axes(moments, block, matrices, dict(zip(names, starts, strict=True)))

    def _axes(
        self,
        moments: Moments,
        block: torch.Tensor,
        matrices: dict[str, torch.Tensor],
        starts: dict[str, int],
    ) -> Axes:
        values, vectors = torch.linalg.eigh(block)
        values, vectors = values.flip(0), vectors.flip(1)
        # T is the identity plus this block matrix; what is not above 0 here is shared by no two branches.
        kept = int((values > 1e-12 * values[0].clamp(min=1e-300)).sum()) if len(values) else 0
        if not kept or not float(values[0]) > 0:
            raise InvalidValueError("the branches do not vary together: their cross-covariances are 0")
        (vectors,) = fix_signs(vectors[:, :kept])
        # Each block of an eigenvector of two branches has the length 1 / sqrt 2; of CCA's axes it is 1.
        scale = len(matrices) ** 0.5
        maps = {
            name: matrix @ vectors[starts[name] : starts[name] + len(matrix)] * scale
            for name, matrix in matrices.items()
        }
        return Axes(maps, {name: moments.space(name).mean for name in matrices}, values[:kept])

    def heads(self, decomposition: object) -> Solution:
        """The strongest axes, weighted."""
        assert isinstance(decomposition, Axes)
        return weighted_axes(decomposition, width=self.width, power=self.axis_power)
