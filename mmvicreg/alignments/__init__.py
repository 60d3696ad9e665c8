"""What brings two views of one sample together: z of both views, row by row -> named terms."""

from mmvicreg.alignments.alignment import Alignment
from mmvicreg.alignments.info_nce import InfoNCE
from mmvicreg.alignments.invariance import Invariance

__all__ = ["Alignment", "InfoNCE", "Invariance"]
