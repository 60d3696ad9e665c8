"""What brings two views of one sample together: z of both views, row by row -> named terms."""

from mmvicreg.objectives.alignments.alignment import Alignment
from mmvicreg.objectives.alignments.barlow_twins import BarlowTwins
from mmvicreg.objectives.alignments.cosine import Cosine
from mmvicreg.objectives.alignments.info_nce import InfoNCE
from mmvicreg.objectives.alignments.invariance import Invariance
from mmvicreg.objectives.alignments.max_hinge import MaxHinge
from mmvicreg.objectives.alignments.momentum_queue import MomentumQueue
from mmvicreg.objectives.alignments.prediction import Prediction
from mmvicreg.objectives.alignments.prototypes import Prototypes
from mmvicreg.objectives.alignments.sigmoid import Sigmoid
from mmvicreg.objectives.alignments.sum import SumAlignment
from mmvicreg.objectives.alignments.whitened_mse import WhitenedMSE

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
    "SumAlignment",
    "WhitenedMSE",
]
