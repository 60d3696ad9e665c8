"""Models of open_clip as runs: their own pixels (crop, squash or pad; bicubic or bilinear) and their own tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.crops import resize_whole
from mmvicreg.modalities.encoders.pretrained import unknown_name
from mmvicreg.modalities.image import ImageModality, ImageReader
from mmvicreg.modalities.modality import Modality
from mmvicreg.modalities.text import TextModality


def modalities_of(name: str) -> dict[str, Modality]:
    """``image`` and ``text`` of ``NAME`` or ``NAME:WEIGHTS``; WEIGHTS is a tag or a file, none gives random weights.

    Raises ValueError for a name that open_clip does not have.
    """
    import open_clip

    architecture, _, weights = name.partition(":")
    found = open_clip.get_model_config(architecture) if architecture in open_clip.list_models() else None
    if found is None:
        raise unknown_name(f"open_clip/{architecture}", open_clip.list_models(), "open_clip.list_models()")
    side: Any = found["vision_cfg"].get("image_size", 224)
    if not isinstance(side, int) and len(set(side)) != 1:
        raise InvalidValueError(
            f"open_clip/{architecture} takes images of {side} pixels; expected square ones"
        )
    side = side if isinstance(side, int) else side[0]
    length = found["text_cfg"].get("context_length", 77)
    encoder = f"open_clip/{architecture}"
    return {
        "image": OpenClipImage(encoder=encoder, weights=weights, size=side),
        "text": TextModality(encoder=encoder, weights=weights, length=length, projector=()),
    }


@dataclass(frozen=True)
class OpenClipImage(ImageModality):
    """The image tower of an open_clip model, as it is."""

    projector: tuple[int, ...] = ()

    def reader(self) -> OpenClipImageReader:
        """Bytes to uint8 (3, size, size), as open_clip's evaluation transform makes them of an RGB image."""
        return OpenClipImageReader(**vars(super().reader()))


@dataclass(frozen=True)
class OpenClipImageReader(ImageReader):
    """Images through open_clip's own transform, to the bit; ours differs by 1 of 255 in few pixels."""

    def prepare(self, array: np.ndarray) -> Tensor:
        return resize_whole(array, self.size, resize=self.resize, interpolation=self.interpolation)
