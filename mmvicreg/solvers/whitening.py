"""Powers of covariance matrices that are safe at any rank and scale, all in fp64.

F, G widths of two spaces, K axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.statistics.moments import SpaceMoments, mirror_upper, strips

TOLERANCE = 1e-12
"""Eigenvalues below this fraction of the largest count as zero: rounding of a sum of fp32 squares in fp64."""
INDEPENDENT = 1e-9
"""Fraction of a dimension's variance that those before it must leave, for a triangular factor."""


@dataclass(frozen=True)
class Whitening:
    """How one branch is whitened: (C / c + within S / c + ridge)^(-power / 2), c the mean eigenvalue of C.

    C is the covariance of the branch, S its scatter within concepts.
    """

    ridge: float = 1.0
    """regularization, in units of the mean eigenvalue of the covariance"""
    power: float = 1.0
    """1 whitens fully, 0 leaves the features as they are"""
    within: float = 0.0
    """weight of the scatter within concepts (several crops, several images of one caption), which is noise"""


def check_whitening(name: str, whitening: Whitening) -> None:
    """Raise ValueError for settings outside their range."""
    if whitening.ridge < 0 or whitening.within < 0:
        raise InvalidValueError(f"{name}: ridge and within are at least 0, found {whitening}")
    if not 0 <= whitening.power <= 2:
        raise InvalidValueError(f"{name}: power of whitening is 0 to 2, found {whitening.power}")


@dataclass(frozen=True)
class WhiteningFactor:
    """A whitening as ``vectors`` (F, F) and the factor ``powers`` (F,) of each: vectors diag(powers) vectors'.

    Axes need no more than the factor F = vectors diag(powers), and rotations are shared by all ridges.
    """

    vectors: Tensor
    powers: Tensor

    def whiten(self, cross_FG: Tensor) -> Tensor:
        """F' cross, (F, G)."""
        return self.powers[:, None] * (self.vectors.T @ cross_FG)

    def axes(self, axes_FK: Tensor) -> Tensor:
        """F axes, (F, K): axes of whitened features as those of the features."""
        return self.vectors.to(axes_FK) @ (self.powers.to(axes_FK)[:, None] * axes_FK)


@dataclass(frozen=True)
class TriangularFactor:
    """A full whitening by the lower triangle of ``root`` (F, F), a Cholesky factor of the regularized covariance:
    F = root^-T. What is above the diagonal is not read.

    It differs from :class:`WhiteningFactor` by a rotation, which no axis depends on; the eigenvectors take ten times as
    long and four times the memory.
    """

    root: Tensor

    def whiten(self, cross_FG: Tensor) -> Tensor:
        """F' cross, (F, G)."""
        return torch.linalg.solve_triangular(self.root, cross_FG, upper=False)

    def axes(self, axes_FK: Tensor) -> Tensor:
        """F axes, (F, K)."""
        return torch.linalg.solve_triangular(self.root.T, axes_FK, upper=True)


def whitening_matrix(name: str, moments: SpaceMoments, whitening: Whitening) -> Tensor:
    """The symmetric matrix (F, F) that :class:`Whitening` describes; errors of :func:`whitening_factor`."""
    factor = whitening_factor(name, moments, whitening)
    return (factor.vectors * factor.powers) @ factor.vectors.T


def whitening_factor(name: str, moments: SpaceMoments, whitening: Whitening) -> WhiteningFactor:
    """The eigenvectors and powers that :class:`Whitening` describes; directions without variance are dropped.

    Raises ValueError where no dimension varies, or the scatter within concepts is asked for and was not counted.
    """
    check_whitening(name, whitening)
    covariance = moments.covariance
    scale = _scale(name, moments)
    if whitening.within:
        if moments.within is None:
            raise InvalidValueError(
                f"{name}: within is {whitening.within}, but no concept has two rows of this branch; set it to 0, or "
                "give several views (crops, captions) of each sample"
            )
        values, vectors = torch.linalg.eigh((covariance + whitening.within * moments.within) / scale)
    else:
        values, vectors = moments.eigen
    varies = values > TOLERANCE * values[-1]
    powers = torch.where(varies, (values.clamp(min=0) + whitening.ridge), torch.ones_like(values))
    powers = powers ** (-whitening.power / 2) * varies
    return WhiteningFactor(vectors, powers / scale ** (whitening.power / 2))


@contextmanager
def triangular_factor(
    name: str, moments: SpaceMoments, whitening: Whitening
) -> Iterator[TriangularFactor | None]:
    """The factor of a full whitening without ``within``; None for another one, and where a dimension is, up to
    rounding, a combination of others: then :func:`whitening_factor` finds the directions without variance.

    Until the context ends the factor takes the place of the lower triangle of the covariance, which is symmetric: a
    matrix of its own would be nearly as much memory as all moments. Raises ValueError for settings out of range and
    where no dimension varies.
    """
    check_whitening(name, whitening)
    scale, matrix = _scale(name, moments), moments.covariance
    if whitening.power != 1.0 or whitening.within:
        yield None
        return
    diagonal = matrix.diagonal().clone()
    try:
        matrix.diagonal().add_(whitening.ridge * scale)
        least = (INDEPENDENT * matrix.diagonal()).clamp(min=TOLERANCE * len(matrix) * scale)
        factored = _cholesky(matrix) and bool((matrix.diagonal().square() > least).all())
        if factored:
            yield TriangularFactor(matrix)
    finally:
        matrix.diagonal().copy_(diagonal)
        mirror_upper(matrix)
    if not factored:
        yield None


def _cholesky(matrix_FF: Tensor) -> bool:
    """The lower triangle becomes the Cholesky factor, in place, panel after panel; what is above it is not touched.
    False where the matrix is not positive definite. torch.linalg.cholesky takes as much memory again."""
    for start, end in strips(len(matrix_FF)):
        done = matrix_FF[:, :start]
        own, below = matrix_FF[start:end, start:end], matrix_FF[end:, start:end]
        root, failed = torch.linalg.cholesky_ex(own.tril() - (done[start:end] @ done[start:end].T).tril())
        if int(failed):
            return False
        own.copy_(root + own.triu(1))
        below.addmm_(done[end:], done[start:end].T, alpha=-1.0)
        below.copy_(torch.linalg.solve_triangular(root.T, below, upper=True, left=False))
    return True


def _scale(name: str, moments: SpaceMoments) -> float:
    """The mean eigenvalue of the covariance."""
    scale = float(moments.covariance.diagonal().mean())
    if not scale > 0:
        raise InvalidValueError(
            f"the features of {name!r} are constant: no dimension varies over {moments.weight:g} rows, so nothing "
            "can be aligned; is its encoder trained, and does its feature map keep the differences?"
        )
    return scale


@dataclass(frozen=True)
class Axes:
    """Paired axes of two spaces or more: ``maps`` {space: (F, K)}, ``strengths`` (K,), largest first."""

    maps: dict[str, Tensor]
    means: dict[str, Tensor]
    strengths: Tensor


def fix_signs(first: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Columns turned so that the largest entry of each column of ``first`` is positive; a decomposition leaves the
    signs open, and two machines must give the same heads."""
    largest = first.abs().argmax(dim=0, keepdim=True)
    signs = first.gather(0, largest).sign()
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return tuple(each * signs for each in (first, *others))
