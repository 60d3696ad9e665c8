"""What a retrieval benchmark consists of: media files, captions, and which belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmvicreg.evaluation.positives import Positives


@dataclass(frozen=True)
class PairedMedia:
    """``media`` files and ``captions``; a caption that occurs twice is two items, as the benchmarks count it.

    ``to_captions``: the captions that match each file; ``to_media``: the files that match each caption, which is not
    always the same seen from the other side (ECCV Caption judged each direction by itself).
    """

    media: list[Path]
    captions: list[str]
    to_captions: Positives
    to_media: Positives

    @staticmethod
    def of(media: list[Path], captions: list[str], media_of: Sequence[int]) -> PairedMedia:
        """Caption c belongs to the file ``media_of[c]``."""
        there = Positives.from_pairs(
            np.array(media_of), np.arange(len(captions)), num_queries=len(media), num_items=len(captions)
        )
        return PairedMedia(media, captions, there, there.transpose())
