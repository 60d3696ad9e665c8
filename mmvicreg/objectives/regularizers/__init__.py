"""What keeps the embeddings of one branch from collapsing: z (N, D) -> named terms."""

from mmvicreg.objectives.regularizers.coefficients import Coefficients
from mmvicreg.objectives.regularizers.hsic import HSIC
from mmvicreg.objectives.regularizers.regularizer import Regularizer
from mmvicreg.objectives.regularizers.sigreg import SIGReg
from mmvicreg.objectives.regularizers.sliced_wasserstein import SlicedWasserstein
from mmvicreg.objectives.regularizers.variance_covariance import VarianceCovariance
from mmvicreg.objectives.regularizers.visreg import VISReg

__all__ = [
    "HSIC",
    "Coefficients",
    "Regularizer",
    "SIGReg",
    "SlicedWasserstein",
    "VISReg",
    "VarianceCovariance",
]
