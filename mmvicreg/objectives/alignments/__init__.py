"""Alignments: the embeddings of two views of the same samples go in, named loss terms come out."""

from mmvicreg.objectives.alignments.alignment import Alignment, PairContext, SumAlignment
from mmvicreg.objectives.alignments.barlow_twins import BarlowTwins
from mmvicreg.objectives.alignments.cosine import Cosine
from mmvicreg.objectives.alignments.info_nce import InfoNCE
from mmvicreg.objectives.alignments.invariance import Invariance
from mmvicreg.objectives.alignments.max_hinge import MaxHinge
from mmvicreg.objectives.alignments.momentum_queue import MomentumQueue
from mmvicreg.objectives.alignments.prediction import Prediction
from mmvicreg.objectives.alignments.prototypes import Prototypes
from mmvicreg.objectives.alignments.sigmoid import Sigmoid
from mmvicreg.objectives.alignments.whitened_mse import WhitenedMSE

__all__ = [
    "Alignment",
    "BarlowTwins",
    "Cosine",
    "InfoNCE",
    "Invariance",
    "MaxHinge",
    "MomentumQueue",
    "PairContext",
    "Prediction",
    "Prototypes",
    "Sigmoid",
    "SumAlignment",
    "WhitenedMSE",
]
