"""What keeps the embeddings of one branch from collapsing: z (N, D) -> named terms."""

from mmvicreg.regularizers.coefficients import Coefficients
from mmvicreg.regularizers.hsic import HSIC
from mmvicreg.regularizers.regularizer import Regularizer
from mmvicreg.regularizers.sigreg import SIGReg
from mmvicreg.regularizers.variance_covariance import VarianceCovariance
from mmvicreg.regularizers.visreg import VISReg
from mmvicreg.regularizers.wasserstein import SlicedWasserstein

__all__ = [
    "HSIC",
    "Coefficients",
    "Regularizer",
    "SIGReg",
    "SlicedWasserstein",
    "VISReg",
    "VarianceCovariance",
]
