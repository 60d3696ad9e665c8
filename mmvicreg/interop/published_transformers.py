"""Two-tower models of transformers as runs: their own image processor and their own tokenizer.

An image is decoded by the rules of :mod:`mmvicreg.modalities.decoding.pixels`, resized and cropped by the model's
processor, and normalized on the device; the processor's normalization is measured, and checked against the whole
processor on one image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.encoders.hugging_face import read_config
from mmvicreg.modalities.encoders.pixel_normalization import PixelNormalization
from mmvicreg.modalities.encoders.pretrained import cannot_download, split
from mmvicreg.modalities.encoders.weights import locate
from mmvicreg.modalities.image import ImageModality, ImageReader
from mmvicreg.modalities.modality import Modality
from mmvicreg.modalities.text import TextModality, TextReader

if TYPE_CHECKING:
    from mmvicreg.branches.model import Branch

LONGEST = 100_000
"""A larger ``model_max_length`` of a tokenizer stands for none."""
UNMASKED = ("siglip", "siglip2")
"""Models that were trained on padded texts without an attention mask."""
UNSTABLE = {
    "aimv2": "text tower in transformers attends to later words too where no text of a batch is padded, so that the "
    "embedding of a text depends on the other texts of its batch"
}
"""Types of models that give one input several embeddings, and why."""
OFFSET_POSITIONS = ("roberta", "altclip", "camembert")
"""Parts of the types of text models whose positions are counted from the padding id on."""


def modalities_of(name: str) -> dict[str, Modality]:
    """``image`` and ``text`` of a model name or folder. Raises ValueError for what is no pair of towers."""
    encoder = f"transformers/{name}"
    config = read_config(locate(name), encoder=encoder)
    if not {"vision_config", "text_config"} <= set(config.to_dict()):
        raise InvalidValueError(
            f"{encoder} is a {config.model_type} model; expected one with an image and a text tower, such as CLIP or "
            "SigLIP"
        )
    if config.model_type in UNSTABLE:
        raise InvalidValueError(
            f"{encoder} is a {config.model_type} model, whose {UNSTABLE[config.model_type]}; its embeddings cannot be "
            "compared: choose another model"
        )
    processing = _Processing(encoder)
    text = config.text_config
    length = min(_tokenizer(encoder).model_max_length, LONGEST)
    if "max_position_embeddings" in text.to_dict():
        offset = 1 + text.pad_token_id if any(part in text.model_type for part in OFFSET_POSITIONS) else 0
        length = min(length, text.max_position_embeddings - offset)
    return {
        "image": TransformersImage(encoder=encoder, weights="hub", size=processing.size),
        "text": TransformersText(encoder=encoder, weights="hub", length=length),
    }


class _Processing:
    """What a model's image processor does: resizing to one square, then one scale and shift a channel."""

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        self.processor = _processor(encoder)
        images = [
            np.random.default_rng(0).integers(0, 256, (*sides, 3)).astype(np.uint8)
            for sides in ((61, 97), (97, 61))
        ]
        wide, tall = (self.normalized(image) for image in images)
        if wide.shape != tall.shape or wide.shape[0] != 3 or wide.shape[1] != wide.shape[2]:
            raise InvalidValueError(
                f"{encoder}: its image processor gives {tuple(wide.shape)} for a wide image and {tuple(tall.shape)} "
                "for a tall one; expected one square of pixels in three channels"
            )
        self.size = wide.shape[-1]
        black, white = (self.normalized(np.full((64, 64, 3), value, np.uint8)) for value in (0, 255))
        shift, scale = black.mean((1, 2)), (white - black).mean((1, 2))
        self.mean = tuple((-shift / scale).tolist())
        self.std = tuple((1 / scale).tolist())
        ours = self.resized(images[0]) / 255 * scale[:, None, None] + shift[:, None, None]
        if (ours - wide).abs().max() > 1e-3:
            raise InvalidValueError(
                f"{encoder}: its image processor ({type(self.processor).__name__}) does more than resize, crop and "
                "normalize, which is not supported; embed with its own library"
            )

    def normalized(self, array: np.ndarray) -> Tensor:
        """The processor's own output, float (3, S, S), of uint8 (H, W, 3)."""
        return self._call(array).float()

    def resized(self, array: np.ndarray) -> Tensor:
        """Its output before normalization, uint8 (3, S, S)."""
        found = self._call(array, do_rescale=False, do_normalize=False)
        return found.float().round().clamp(0, 255).to(torch.uint8)

    def _call(self, array: np.ndarray, **options: bool) -> Tensor:
        from PIL import Image

        found = self.processor(images=Image.fromarray(array), return_tensors="pt", **options)
        return found["pixel_values"][0]


def _processor(encoder: str) -> Any:
    from huggingface_hub.errors import HTTPError
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(locate(split(encoder)[1]), trust_remote_code=False)
    except (OSError, HTTPError, ValueError) as error:
        raise cannot_download(encoder, error) from None


def _tokenizer(encoder: str) -> Any:
    from huggingface_hub.errors import HTTPError
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(locate(split(encoder)[1]), trust_remote_code=False)
    except (OSError, HTTPError, ValueError) as error:
        raise cannot_download(encoder, error) from None


def _model(encoder: str) -> Any:
    from huggingface_hub.errors import HTTPError
    from transformers import AutoModel

    folder = locate(split(encoder)[1])
    config = read_config(folder, encoder=encoder)
    try:
        model: Any = AutoModel.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, HTTPError, ValueError) as error:
        raise cannot_download(encoder, error) from None
    if not {"get_image_features", "get_text_features"} <= set(dir(model)):
        raise InvalidValueError(
            f"{encoder} is a {type(model).__name__}, which embeds no images and texts apart from each other; expected "
            "a model such as CLIP or SigLIP"
        )
    return model


@dataclass(frozen=True)
class TransformersImage(ImageModality):
    """The image side of a two-tower model, after its own projection."""

    projector: tuple[int, ...] = ()

    def reader(self) -> TransformersImageReader:
        """Bytes to uint8 (3, size, size), as the model's processor resizes and crops them."""
        return TransformersImageReader(**vars(super().reader()), source=self.encoder)

    def branch(self) -> Branch:
        """uint8 (n, 3, size, size) to the model's image features (n, E)."""
        from mmvicreg.branches.model import Branch

        processing = _Processing(self.encoder)
        encoder = nn.Sequential(
            PixelNormalization(processing.mean, processing.std), _ImageFeatures(_model(self.encoder))
        )
        return Branch(encoder, nn.Sequential())


@dataclass(frozen=True)
class TransformersImageReader(ImageReader):
    """Images through the model's own image processor, without its normalization."""

    source: str

    def prepare(self, array: np.ndarray) -> Tensor:
        return self._processing.resized(array)

    @cached_property
    def _processing(self) -> _Processing:
        return _Processing(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_processing"}


@dataclass(frozen=True)
class TransformersText(TextModality):
    """The text side of a two-tower model, after its own projection."""

    projector: tuple[int, ...] = ()

    def reader(self) -> TransformersTextReader:
        """Bytes to int64 (length,): ids of the model's own tokenizer, and ``~id`` where they are padding."""
        return TransformersTextReader(**vars(super().reader()))

    def branch(self) -> Branch:
        """Ids int64 (n, length), ``~id`` for padding, to the model's text features (n, E)."""
        from mmvicreg.branches.model import Branch

        return Branch(_TextFeatures(_model(self.encoder)), nn.Sequential())


@dataclass(frozen=True)
class TransformersTextReader(TextReader):
    """Captions through the model's own tokenizer, padded as it pads."""

    @cached_property
    def _tokenize(self) -> Callable[[str], Tensor]:
        return OwnTokenizer(self.encoder, self.length)


class OwnTokenizer:
    """A model's own tokenizer for one text: ids int64 (length,), and ``~id`` (below 0) where it padded.

    Tokenizers set truncation and padding at every call, which is not safe in threads: calls take turns.
    """

    def __init__(self, encoder: str, length: int) -> None:
        self.tokenizer = _tokenizer(encoder)
        self.length = length
        self.turn = threading.Lock()

    def __call__(self, text: str) -> Tensor:
        with self.turn:
            found = self.tokenizer(
                text,
                padding="max_length",
                max_length=self.length,
                truncation=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        ids, mask = found["input_ids"][0], found["attention_mask"][0]
        return torch.where(mask.bool(), ids, ~ids)


def _pooled(found: Any, of: str) -> Tensor:
    """Features (n, E), of a model that returns them or an output that holds them."""
    features = found if isinstance(found, Tensor) else found.pooler_output
    if features is None or features.dim() != 2:
        raise InvalidValueError(
            f"{of} gives no single embedding of an input; it is not supported as a published model"
        )
    return features


class _ImageFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=x), type(self.model).__name__)


class _TextFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        mask = x >= 0
        ids = torch.where(mask, x, ~x)
        unmasked = self.model.config.model_type in UNMASKED
        options = {} if unmasked else {"attention_mask": mask.long()}
        return _pooled(self.model.get_text_features(input_ids=ids, **options), type(self.model).__name__)
