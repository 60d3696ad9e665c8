"""What brings two views of one sample together: z of both views, row by row -> named terms."""

from mmvicreg.alignments.alignment import Alignment
from mmvicreg.alignments.barlow_twins import BarlowTwins
from mmvicreg.alignments.cosine import Cosine
from mmvicreg.alignments.info_nce import InfoNCE
from mmvicreg.alignments.invariance import Invariance
from mmvicreg.alignments.max_hinge import MaxHinge
from mmvicreg.alignments.momentum_queue import MomentumQueue
from mmvicreg.alignments.prediction import Prediction
from mmvicreg.alignments.prototypes import Prototypes
from mmvicreg.alignments.sigmoid import Sigmoid
from mmvicreg.alignments.weighted_sum import Sum
from mmvicreg.alignments.whitened_mse import WhitenedMSE

__all__ = [
    "Alignment",
    "BarlowTwins",
    "Cosine",
    "InfoNCE",
    "Invariance",
    "MaxHinge",
    "MomentumQueue",
    "Prediction",
    "Prototypes",
    "Sigmoid",
    "Sum",
    "WhitenedMSE",
]
