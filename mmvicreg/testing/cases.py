"""Every regularizer and alignment of the package, paired with its slow reference implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmvicreg.objectives.alignments import (
    Alignment,
    BarlowTwins,
    Cosine,
    InfoNCE,
    Invariance,
    MaxHinge,
    MomentumQueue,
    Prediction,
    Prototypes,
    Sigmoid,
    SumAlignment,
    WhitenedMSE,
)
from mmvicreg.objectives.regularizers import (
    HSIC,
    Regularizer,
    SIGReg,
    SlicedWasserstein,
    VICReg,
    VISReg,
)
from mmvicreg.testing import references
from mmvicreg.testing.references import Terms


@dataclass(frozen=True)
class RegularizerCase:
    """``reference(z_ND, seed)``: the same terms from the whole batch."""

    make: Callable[[], Regularizer]
    reference: Callable[[Tensor, int], Terms]


@dataclass(frozen=True)
class AlignmentCase:
    """``reference(alignment, a_ND, b_ND, seed, targets)``: the same terms from the whole batch."""

    make: Callable[[], Alignment]
    reference: Callable[[Any, Tensor, Tensor, int, Any], Terms]
    width: int = 12
    autocast: float = 1e-5
    """Largest relative error of a term under bf16 autocast: predictors are networks and run in bf16."""


REGULARIZERS = {
    "vicreg": RegularizerCase(VICReg, references.vicreg),
    "gram": RegularizerCase(lambda: VICReg(form="gram"), references.vicreg),
    "covariance": RegularizerCase(lambda: VICReg(form="covariance"), references.vicreg),
    "variance": RegularizerCase(lambda: VICReg(covariance=0.0), references.only_variance),
    "sigreg": RegularizerCase(lambda: SIGReg(0.5, slices=40, chunk=16), references.sigreg),
    "sigreg_without_rows": RegularizerCase(
        lambda: SIGReg(slices=10, knots=9, times_rows=False), references.sigreg_without_rows
    ),
    "sliced_wasserstein": RegularizerCase(
        lambda: SlicedWasserstein(slices=20, chunk=7), references.sliced_wasserstein
    ),
    "visreg": RegularizerCase(lambda: VISReg(scale=0.5, shape=2.0, slices=20), references.visreg),
    "hsic": RegularizerCase(lambda: HSIC(bandwidth=1.2), references.hsic),
}

ALIGNMENTS = {
    "invariance": AlignmentCase(Invariance, references.invariance),
    "info_nce": AlignmentCase(InfoNCE, references.info_nce),
    "cosine": AlignmentCase(Cosine, references.cosine),
    "barlow_twins": AlignmentCase(BarlowTwins, references.barlow_twins),
    "barlow_twins_gram": AlignmentCase(BarlowTwins, references.barlow_twins, width=70),
    "whitened_mse": AlignmentCase(lambda: WhitenedMSE(size=8), references.whitened_mse),
    "sigmoid": AlignmentCase(Sigmoid, references.sigmoid),
    "max_hinge": AlignmentCase(MaxHinge, references.max_hinge),
    "prediction_mse": AlignmentCase(
        lambda: Prediction(widths=(12, 12), hidden=()), references.prediction_mse, autocast=1e-3
    ),
    "prediction_ema": AlignmentCase(
        lambda: Prediction(widths=(12, 12), hidden=(), distance="cosine", momentum=0.99),
        references.prediction_ema,
        autocast=1e-3,
    ),
    "momentum_queue": AlignmentCase(lambda: MomentumQueue(width=12, size=32), references.momentum_queue),
    "prototypes": AlignmentCase(lambda: Prototypes(width=12, count=9), references.prototypes),
    "prediction_and_info_nce": AlignmentCase(
        lambda: SumAlignment(Prediction(widths=(12, 12), hidden=()), InfoNCE(0.1)),
        references.prediction_and_info_nce,
        autocast=1e-3,
    ),
}
