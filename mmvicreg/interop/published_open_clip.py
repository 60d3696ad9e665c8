"""Models of open_clip as runs: their own pixels (crop, squash or pad; bicubic or bilinear) and their own tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.encoders.pixel_normalization import PixelNormalization
from mmvicreg.modalities.encoders.pretrained import unknown_name
from mmvicreg.modalities.encoders.weights import locate
from mmvicreg.modalities.image import ImageModality, ImageReader
from mmvicreg.modalities.modality import Modality
from mmvicreg.modalities.text import TextModality

if TYPE_CHECKING:
    from mmvicreg.branches.model import Branch

CONFIG = "open_clip_config.json"
"""File that open_clip writes beside the weights of a folder or repository."""


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


def preprocessing(architecture: str, weights: str) -> dict[str, Any]:
    """open_clip's PreprocessCfg of some weights, as a dictionary without the size.

    Of a tag, its own. Of a file, what the configuration beside it says, else what all tags of the architecture agree
    on, else open_clip's defaults, which are also those of random weights.
    """
    import open_clip

    default = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    return default | {
        name: value for name, value in _stated(architecture, weights).items() if name in default
    }


def _stated(architecture: str, weights: str) -> dict[str, Any]:
    import open_clip

    if not weights:
        return {}
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    file = Path(locate(weights))
    if not file.is_file():
        tag = tags[0] if weights == "hub" and tags else weights
        return open_clip.get_pretrained_cfg(architecture, tag)
    beside = file.with_name(CONFIG)
    if beside.is_file():
        return json.loads(beside.read_text(encoding="utf-8")).get("preprocess_cfg", {})
    found = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    names = ("mean", "std", "interpolation", "resize_mode")
    agreed = {str([each.get(name) for name in names]): each for each in found}
    return next(iter(agreed.values())) if len(agreed) == 1 else {}


@dataclass(frozen=True)
class OpenClipImage(ImageModality):
    """The image tower of an open_clip model, with the preprocessing of its weights."""

    projector: tuple[int, ...] = ()

    def reader(self) -> OpenClipImageReader:
        """Bytes to uint8 (3, size, size), as open_clip's evaluation transform makes them of an RGB picture."""
        found = preprocessing(self.encoder.partition("/")[2], self.weights)
        return OpenClipImageReader(
            **vars(super().reader()),
            resize_mode=found["resize_mode"],
            interpolation=found["interpolation"],
            fill_color=found["fill_color"],
        )

    def branch(self) -> Branch:
        """uint8 (n, 3, size, size) to the model's image embedding (n, E)."""
        found = preprocessing(self.encoder.partition("/")[2], self.weights)
        branch = super().branch()
        assert isinstance(branch.encoder, nn.Sequential)
        branch.encoder[0] = PixelNormalization(tuple(found["mean"]), tuple(found["std"]))
        return branch


@dataclass(frozen=True)
class OpenClipImageReader(ImageReader):
    """Pictures through open_clip's own evaluation transform; normalization follows on the device."""

    resize_mode: str
    interpolation: str
    fill_color: int

    def prepare(self, array: np.ndarray) -> Tensor:
        from PIL import Image

        # ToTensor divides bytes by 255: multiplied back they are the same bytes.
        return self._transform(Image.fromarray(array)).mul(255).round().to(torch.uint8)

    @cached_property
    def _transform(self) -> Any:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = PreprocessCfg(
            size=self.size,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            resize_mode=self.resize_mode,
            interpolation=self.interpolation,
            fill_color=self.fill_color,
        )
        return image_transform_v2(config, is_train=False)
