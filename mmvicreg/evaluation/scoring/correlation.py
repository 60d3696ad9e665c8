"""Canonical axes of two branches, estimated on pairs that are not the test data, and weighted by their correlation.

With covariances Cx, Cy and Cxy of matching rows, Wx = (Cx + ridge c I)^(-1/2) for c the mean eigenvalue of Cx, and
Wx Cxy Wy = U S V': a row x becomes S^(1/2) U' Wx (x - mean), so that the product of two rows weights each axis by its
correlation (Hotelling 1936; weights: CSA, arXiv 2410.07610). Columns are sorted, the most correlated axis first.

Shapes: P pairs, D and E widths of two branches, K axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.unit_rows import require_finite

RIDGE = 1.0
"""Regularization in units of the mean eigenvalue: the default of :class:`mmvicreg.CCA`."""
BLOCK = 8192


@dataclass(frozen=True)
class CorrelationAxes:
    """Float64 maps (D, K) and (E, K) that hold the weights, means (D,) and (E,), and ``correlations`` (K,)."""

    means: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    correlations: Tensor

    def rows(self, a_ND: np.ndarray, b_ME: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of both branches along the weighted axes, float32 (N, K) and (M, K)."""
        return self._apply(a_ND, 0), self._apply(b_ME, 1)

    def turned(self) -> CorrelationAxes:
        """The same axes with the branches in the other order."""
        return CorrelationAxes(self.means[::-1], self.maps[::-1], self.correlations)

    def _apply(self, rows_ND: np.ndarray, side: int) -> np.ndarray:
        blocks = _parts(rows_ND, np.arange(len(rows_ND)))
        return np.concatenate(
            [((block - self.means[side]) @ self.maps[side]).float().numpy() for block in blocks]
        )


def correlation_axes(
    a_ND: np.ndarray, b_ME: np.ndarray, positives: Positives, *, ridge: float = RIDGE
) -> CorrelationAxes:
    """Axes from all matching pairs of two branches, each pair of the same weight.

    Raises ValueError for fewer than two pairs, and for rows that are not finite or do not vary.
    """
    require_finite(a_ND, "rows of the first branch")
    require_finite(b_ME, "rows of the second branch")
    first, second = positives.pairs()
    if len(first) < 2:
        raise InvalidValueError(
            f"correlations need two matching pairs or more, found {len(first)}: give shards with both modalities"
        )
    ends = ((a_ND, first), (b_ME, second))
    means = [torch.stack([part.sum(0) for part in _parts(*end)]).sum(0) / len(first) for end in ends]
    sizes = [len(mean) for mean in means]
    joint = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
    for a, b in zip(_parts(*ends[0]), _parts(*ends[1]), strict=True):
        rows = torch.cat([a - means[0], b - means[1]], dim=1)
        joint.addmm_(rows.T, rows)
    joint /= len(first)
    split = sizes[0]
    factors = [_factor(joint[:split, :split], ridge), _factor(joint[split:, split:], ridge)]
    half = torch.linalg.solve_triangular(factors[0], joint[:split, split:], upper=False)
    cross = torch.linalg.solve_triangular(factors[1], half.T, upper=False).T
    left, correlations, right = torch.linalg.svd(cross, full_matrices=False)
    maps = [
        torch.linalg.solve_triangular(factor.T, axes, upper=True) * correlations.sqrt()
        for factor, axes in zip(factors, (left, right.T), strict=True)
    ]
    return CorrelationAxes((means[0], means[1]), (maps[0], maps[1]), correlations)


def _factor(covariance: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor L of the regularized covariance: L^-1 whitens as well as its symmetric root does."""
    mean = covariance.diagonal().mean()
    if not mean > 0:
        raise InvalidValueError(
            "the embeddings of a branch do not vary over the correlation data: its model has collapsed, or all pairs "
            "are one"
        )
    return torch.linalg.cholesky(covariance + ridge * mean * torch.eye(len(covariance), dtype=torch.float64))


def _parts(rows_ND: np.ndarray, chosen: np.ndarray) -> Iterator[Tensor]:
    """The chosen rows in blocks, float64."""
    for start in range(0, len(chosen), BLOCK):
        yield torch.from_numpy(np.asarray(rows_ND[chosen[start : start + BLOCK]], dtype=np.float64))
