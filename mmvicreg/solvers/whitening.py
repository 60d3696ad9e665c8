"""Powers of covariance matrices that are safe at any rank and scale, all in fp64.

F, G widths of two spaces, K axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.statistics.moments import SpaceMoments

TOLERANCE = 1e-12
"""Eigenvalues below this fraction of the largest count as zero: rounding of a sum of fp32 squares in fp64."""


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

    Axes need no more than this, and rotations are shared by all ridges.
    """

    vectors: Tensor
    powers: Tensor


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
    scale = float(covariance.diagonal().mean())
    if not scale > 0:
        raise InvalidValueError(
            f"the features of {name!r} are constant: no dimension varies over {moments.weight:g} rows, so nothing "
            "can be aligned; is its encoder trained, and does its feature map keep the differences?"
        )
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
