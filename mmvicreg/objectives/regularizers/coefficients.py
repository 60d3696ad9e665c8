"""Coefficients of other implementations of VICReg and SIGReg in the normalization of this package.

"VICReg" is several functions in public code. Ours: invariance = mean of (a - b)^2 over rows and dimensions,
variance = mean over dimensions of relu(1 - std), per branch, not halved; covariance = sum of squared
off-diagonal covariances / D, per branch, not halved.

"SIGReg" multiplies the statistic by the number of rows of all processes (LeJEPA and ours), of one process (LeVLJEPA)
or not at all (eb_jepa). Every converter gives the loss of its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmvicreg.errors import InvalidValueError
from mmvicreg.objectives.arguments import expect
from mmvicreg.objectives.regularizers.sigreg import SIGReg
from mmvicreg.objectives.regularizers.vicreg import VICReg


@dataclass(frozen=True)
class VICRegCoefficients:
    """Weights of the three terms in this package's normalization."""

    invariance: float
    variance: float
    covariance: float

    @property
    def regularizer(self) -> VICReg:
        """The regularizer of one branch with these weights."""
        return VICReg(variance=self.variance, covariance=self.covariance)

    @staticmethod
    def from_meta(*, sim: float = 25.0, std: float = 25.0, cov: float = 1.0) -> VICRegCoefficients:
        """facebookresearch/vicreg: the variance terms of the two branches are halved."""
        return VICRegCoefficients(invariance=sim, variance=std / 2, covariance=cov)

    @staticmethod
    def from_lightly(*, lambda_: float = 25.0, mu: float = 25.0, nu: float = 1.0) -> VICRegCoefficients:
        """lightly.loss.VICRegLoss: as Meta's."""
        return VICRegCoefficients.from_meta(sim=lambda_, std=mu, cov=nu)

    @staticmethod
    def from_stable_pretraining(
        *, sim: float = 25.0, std: float = 25.0, cov: float = 1.0
    ) -> VICRegCoefficients:
        """stable_pretraining's VICRegLoss: as Meta's."""
        return VICRegCoefficients.from_meta(sim=sim, std=std, cov=cov)

    @staticmethod
    def from_solo_learn(*, sim: float = 25.0, var: float = 25.0, cov: float = 1.0) -> VICRegCoefficients:
        """solo-learn's vicreg_loss_func: nothing is halved."""
        return VICRegCoefficients(invariance=sim, variance=var, covariance=cov)

    @staticmethod
    def from_vicregl(*, inv: float = 25.0, var: float = 25.0, cov: float = 1.0) -> VICRegCoefficients:
        """facebookresearch/VICRegL, global part with two views: variance and covariance are both halved."""
        return VICRegCoefficients(invariance=inv, variance=var / 2, covariance=cov / 2)

    @staticmethod
    def from_eb_jepa(*, width: int, std: float = 1.0, cov: float = 80.0) -> VICRegCoefficients:
        """facebookresearch/eb_jepa: nothing is halved, covariance averaged over D(D-1) with D = ``width``."""
        if width < 2:
            raise InvalidValueError(
                f"width is {width}; covariance needs at least 2 dimensions: give the embedding's D"
            )
        return VICRegCoefficients(invariance=1.0, variance=std, covariance=cov / (width - 1))


@dataclass(frozen=True)
class SIGRegCoefficients:
    """The weight of SIGReg, and whether it multiplies a statistic with the factor N (rows of all processes)."""

    weight: float
    times_rows: bool = True

    def regularizer(self, *, slices: int = 1024, knots: int = 17, limit: float = 3.0) -> SIGReg:
        """The regularizer of one branch with this weight."""
        return SIGReg(self.weight, times_rows=self.times_rows, slices=slices, knots=knots, limit=limit)

    @staticmethod
    def from_lejepa(weight: float = 0.05) -> SIGRegCoefficients:
        """LeJEPA's lambda (arXiv 2511.08544): the statistic times the rows of all processes, as ours.

        LeJEPA weighs its prediction loss with 1 - lambda; that factor belongs to the alignment.
        """
        return SIGRegCoefficients(weight)

    @staticmethod
    def from_levljepa(weight: float = 0.02, *, processes: int) -> SIGRegCoefficients:
        """LeVLJEPA's weight (arXiv 2607.00784): the statistic times the rows of one of ``processes`` processes.

        Its statistic is that of equal batches on all ``processes``. Raises ValueError for a number below 1.
        """
        expect("SIGRegCoefficients' processes", processes, holds=processes >= 1, expected="at least 1")
        return SIGRegCoefficients(weight / processes)

    @staticmethod
    def from_eb_jepa(weight: float = 10.0) -> SIGRegCoefficients:
        """facebookresearch/eb_jepa: the statistic without the number of rows."""
        return SIGRegCoefficients(weight, times_rows=False)
