"""The odd pictures and texts, and what a family of models is."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmvicreg.modalities.decoding.pixels import decode

SIDE = 32
WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "</s>",
    "a",
    "red",
    "blue",
    "bird",
    "boat",
    "tree",
    "house",
    "near",
    "of",
)
TEXTS = (
    "",
    "a red bird",
    "A RED BIRD near a boat!",
    "a bird of a tree of a house " * 40,
    "\U0001f600 a bird \U0001f426",
    "\u043f\u0442\u0438\u0446\u0430 \u0438 \u0434\u0435\u0440\u0435\u0432\u043e",
    "\u9e1f\u5728\u6811\u4e0a",
    "\u0637\u0627\u0626\u0631 \u0623\u062d\u0645\u0631",
    "a  bird &amp; a   boat\n<near> caf\u00e9",
)


def pictures() -> list[bytes]:
    """20 odd pictures as files, which decode to the same pixels everywhere or by rules that are documented."""
    generator = np.random.default_rng(0)

    def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
        coarse = generator.integers(0, 256, (height // 5 + 1, width // 5 + 1, channels))
        return coarse.repeat(5, 0).repeat(5, 1)[:height, :width].astype(np.uint8)

    sides = [
        (32, 32),
        (64, 64),
        (97, 61),
        (61, 97),
        (300, 40),
        (40, 300),
        (1, 50),
        (50, 1),
        (1, 1),
        (31, 33),
        (224, 200),
    ]
    made: list[tuple[Image.Image, dict[str, Any]]] = [
        (Image.fromarray(noise(*each)), {"format": "PNG"}) for each in sides
    ]
    photo = Image.fromarray(noise(90, 60))
    alpha = Image.fromarray(np.dstack([noise(90, 60), noise(90, 60, 1)]), "RGBA")
    turned = Image.Exif()
    turned[0x0112] = 6
    made += [
        (photo.convert("L"), {"format": "PNG"}),
        (photo.convert("1"), {"format": "PNG"}),
        (photo.quantize(20), {"format": "PNG"}),
        (alpha, {"format": "PNG"}),
        (alpha.convert("LA"), {"format": "PNG"}),
        (photo.convert("CMYK"), {"format": "TIFF"}),
        (Image.fromarray(noise(90, 60, 1)[..., 0].astype(np.uint16) * 256 + 7), {"format": "PNG"}),
        (photo, {"format": "PNG", "exif": turned}),
        (photo, {"format": "WEBP", "lossless": True}),
    ]
    found = []
    for image, options in made:
        buffer = io.BytesIO()
        image.save(buffer, **options)
        found.append(buffer.getvalue())
    return found


@dataclass(frozen=True)
class Embeddings:
    """Of one pipeline, rows of unit length: images (20, D), texts (9, D)."""

    images: Tensor
    texts: Tensor


@dataclass(frozen=True)
class Family:
    """One architecture: how it is built into a folder, and what it prepares of an input."""

    name: str
    preprocessing: str
    build: Callable[[Path], tuple[str, Embeddings]] = field(repr=False)
    """saves the model in a folder; its name for ``mmvicreg.load``, and its library's own embeddings"""


def unit(values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(values.float(), dim=-1)


def own_pictures() -> list[Image.Image]:
    """What both pipelines start from: alpha on white, EXIF applied, 16 bits cut to 8 by the documented rules."""
    return [Image.fromarray(decode(data).array) for data in pictures()]


def word_tokenizer(folder: Path, *, end: str = "[SEP]", pad: str = "[PAD]", length: int = 16) -> None:
    """A fast tokenizer of words with special tokens, as transformers saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    number = {word: place for place, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(number, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A {end}", special_tokens=[("[CLS]", number["[CLS]"]), (end, number[end])]
    )
    names: Any = {
        "pad_token": pad,
        "unk_token": "[UNK]",
        "eos_token": end,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **names).save_pretrained(folder)
