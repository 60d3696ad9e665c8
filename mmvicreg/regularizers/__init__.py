"""What keeps the embeddings of one branch from collapsing: z (N, D) -> named terms."""

from mmvicreg.regularizers.coefficients import Coefficients
from mmvicreg.regularizers.regularizer import Regularizer
from mmvicreg.regularizers.variance_covariance import VarianceCovariance

__all__ = ["Coefficients", "Regularizer", "VarianceCovariance"]
