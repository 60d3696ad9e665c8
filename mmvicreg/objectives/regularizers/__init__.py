"""Regularizers: the embeddings of one branch go in, named loss terms that prevent collapse come out."""

from mmvicreg.objectives.regularizers.coefficients import SIGRegCoefficients, VICRegCoefficients
from mmvicreg.objectives.regularizers.hsic import HSIC
from mmvicreg.objectives.regularizers.regularizer import Regularizer
from mmvicreg.objectives.regularizers.sigreg import SIGReg
from mmvicreg.objectives.regularizers.sliced_wasserstein import SlicedWasserstein
from mmvicreg.objectives.regularizers.vicreg import VICReg
from mmvicreg.objectives.regularizers.visreg import VISReg

__all__ = [
    "HSIC",
    "Regularizer",
    "SIGReg",
    "SIGRegCoefficients",
    "SlicedWasserstein",
    "VICReg",
    "VICRegCoefficients",
    "VISReg",
]
