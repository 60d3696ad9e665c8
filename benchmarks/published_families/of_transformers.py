"""Families of transformers, built small with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from published_families.inputs import (
    SIDE,
    TEXTS,
    WORDS,
    Embeddings,
    Family,
    own_pictures,
    unit,
    word_tokenizer,
)

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
    "eos_token_id": 4,
    "bos_token_id": 2,
    "pad_token_id": 0,
}


@torch.inference_mode()
def by_transformers(folder: Path, *, padding: str, masked: bool = True, length: int = 16) -> Embeddings:
    """The library's own pipeline: AutoImageProcessor, AutoTokenizer and the model's feature methods."""
    import transformers

    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    images, texts = [], []
    for picture in own_pictures():
        pixels = processor(images=picture, return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ]
        images.append(features(model.get_image_features(pixel_values=pixels)))
    for text in TEXTS:
        found = tokenizer(text, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        given = {"input_ids": found["input_ids"]} | (
            {"attention_mask": found["attention_mask"]} if masked else {}
        )
        texts.append(features(model.get_text_features(**given)))
    return Embeddings(unit(torch.cat(images)), unit(torch.cat(texts)))


def features(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output


def transformers_family(
    name: str,
    make: Callable[[], tuple[Any, Any]],
    *,
    padding: str = "longest",
    masked: bool = True,
    end: str = "[SEP]",
) -> Family:
    """``make`` gives a model of random weights and its image processor."""

    def build(folder: Path) -> tuple[str, Embeddings]:
        torch.manual_seed(1)
        model, processor = make()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        word_tokenizer(folder, end=end)
        return f"transformers/{folder}", by_transformers(folder, padding=padding, masked=masked)

    return Family(f"transformers {name}", "its image processor", build)


def transformers_families() -> list[Family]:
    import transformers as t

    vision: Any = SMALL | {"image_size": SIDE, "patch_size": 16}
    text: Any = SMALL | TEXT
    square: Any = {"height": SIDE, "width": SIDE}
    cut: Any = {"size": {"shortest_edge": SIDE}, "crop_size": square}

    def clip() -> tuple[Any, Any]:
        return t.CLIPModel(
            t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        ), t.CLIPImageProcessor(**cut)

    def zoomed() -> tuple[Any, Any]:
        sizes: Any = {"size": {"shortest_edge": 40}, "crop_size": square, "resample": 2}
        return clip()[0], t.CLIPImageProcessor(**sizes)

    def siglip() -> tuple[Any, Any]:
        config = t.SiglipConfig(text_config=text | {"projection_size": 32}, vision_config=vision)
        return t.SiglipModel(config), t.SiglipImageProcessor(size=square)

    def chinese() -> tuple[Any, Any]:
        config = t.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        return t.ChineseCLIPModel(config), t.ChineseCLIPImageProcessor(**cut)

    def alt() -> tuple[Any, Any]:
        positions = {"max_position_embeddings": 18, "project_dim": 32, "type_vocab_size": 1}
        config = t.AltCLIPConfig(text_config=text | positions, vision_config=vision, projection_dim=16)
        return t.AltCLIPModel(config), t.CLIPImageProcessor(**cut)

    def blip() -> tuple[Any, Any]:
        encoder = text | {"encoder_hidden_size": 32, "projection_dim": 16}
        config = t.BlipConfig(text_config=encoder, vision_config=vision, projection_dim=16)
        return t.BlipModel(config), t.BlipImageProcessor(size=square)

    def align() -> tuple[Any, Any]:
        small = {"image_size": SIDE, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 32}
        sizes: Any = {
            "size": {"height": 40, "width": 40},
            "crop_size": square,
            "do_center_crop": True,
            "resample": 2,
        }
        sizes |= {
            "include_top": False,
            "rescale_offset": True,
            "rescale_factor": 1 / 127.5,
            "do_normalize": False,
        }
        config = t.AlignConfig(text_config=text, vision_config=small, projection_dim=32)
        model = t.AlignModel(config)
        for module in model.modules():
            if isinstance(
                module, torch.nn.Conv2d
            ):  # with its own initialization, nothing reaches the last layer
                torch.nn.init.kaiming_normal_(module.weight)
        return model, t.EfficientNetImageProcessor(**sizes)

    def meta() -> tuple[Any, Any]:
        config = t.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=16)
        return t.MetaClip2Model(config), t.CLIPImageProcessor(**cut)

    def group() -> tuple[Any, Any]:
        stages: Any = {"depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 0]}
        stages |= vision | {"num_hidden_layers": 3}
        widths: Any = {"projection_dim": 16, "projection_intermediate_dim": 32}
        config = t.GroupViTConfig(text_config=text, vision_config=stages, **widths)
        return t.GroupViTModel(config), t.CLIPImageProcessor(**cut)

    def segments() -> tuple[Any, Any]:
        config = t.CLIPSegConfig(
            text_config=text, vision_config=vision, projection_dim=16, extract_layers=[1]
        )
        return t.CLIPSegModel(config), t.CLIPImageProcessor(**cut)

    def owl() -> tuple[Any, Any]:
        config = t.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
        return t.OwlViTModel(config), t.CLIPImageProcessor(**cut)

    def dual() -> tuple[Any, Any]:
        towers = t.ViTModel(t.ViTConfig(**vision)), t.BertModel(t.BertConfig(**text))
        config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
            towers[0].config, towers[1].config, projection_dim=16
        )
        model = t.VisionTextDualEncoderModel(config, vision_model=towers[0], text_model=towers[1])
        return model, t.ViTImageProcessor(size=square)

    return [
        transformers_family("GroupViT", group, end="</s>"),
        transformers_family("CLIPSeg", segments, end="</s>"),
        transformers_family("OWL-ViT", owl, end="</s>"),
        transformers_family("VisionTextDualEncoder of ViT and BERT", dual),
        transformers_family("CLIP", clip, end="</s>"),
        transformers_family("CLIP, crop of a larger resize, bilinear", zoomed, end="</s>"),
        transformers_family(
            "SigLIP, SigLIP 2 of fixed size", siglip, padding="max_length", masked=False, end="</s>"
        ),
        transformers_family("Chinese CLIP", chinese),
        transformers_family("AltCLIP", alt),
        transformers_family("BLIP", blip),
        transformers_family("ALIGN", align),
        transformers_family("MetaCLIP 2", meta, end="</s>"),
    ]
