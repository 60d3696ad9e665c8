"""Families that have images and texts and cannot be loaded as two towers: each is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmvicreg as mm
from mmvicreg.errors import UserError
from published_families.inputs import SIDE, word_tokenizer
from published_families.of_transformers import SMALL, TEXT


def refused_families() -> dict[str, Callable[[], tuple[Any, Any]]]:
    """By name, what builds a model of random weights and its image processor."""
    import transformers as t

    vision: Any = SMALL | {"image_size": SIDE, "patch_size": 16}
    text: Any = SMALL | TEXT
    square: Any = {"height": SIDE, "width": SIDE}
    cut: Any = {"size": {"shortest_edge": SIDE}, "crop_size": square}
    processor = t.CLIPImageProcessor(**cut)

    def aim() -> tuple[Any, Any]:
        config = t.Aimv2Config(text_config=text, vision_config=vision, projection_dim=16)
        return t.Aimv2Model(config), processor

    def flava() -> tuple[Any, Any]:
        parts: Any = {"image_config": vision, "text_config": text, "multimodal_config": SMALL}
        parts["image_codebook_config"] = {"num_groups": 2, "num_blocks_per_group": 1, "hidden_size": 8}
        return t.FlavaModel(t.FlavaConfig(**parts, hidden_size=32, projection_dim=16)), processor

    def bridge() -> tuple[Any, Any]:
        wide: Any = {"hidden_size": 64, "num_hidden_layers": 2}
        parts: Any = {"text_config": text | wide, "vision_config": vision | wide, "num_attention_heads": 2}
        config = t.BridgeTowerConfig(**parts, **wide)
        return t.BridgeTowerModel(config), processor

    def naflex() -> tuple[Any, Any]:
        patches: Any = SMALL | {"num_patches": 4, "patch_size": 16}
        config = t.Siglip2Config(text_config=text | {"projection_size": 32}, vision_config=patches)
        free: Any = {"patch_size": 16, "max_num_patches": 4}
        return t.Siglip2Model(config), t.Siglip2ImageProcessor(**free)

    def clap() -> tuple[Any, Any]:
        sound: Any = {
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
        }
        sound |= {"num_hidden_layers": 2, "spec_size": 64, "num_mel_bins": 16, "projection_dim": 16}
        config = t.ClapConfig(
            text_config=text | {"projection_dim": 16}, audio_config=sound, projection_dim=16
        )
        return t.ClapModel(config), t.ClapFeatureExtractor(feature_size=16)

    return {
        "AIMv2": aim,
        "CLAP": clap,
        "FLAVA": flava,
        "BridgeTower": bridge,
        "SigLIP 2 of free size (NaFlex)": naflex,
    }


def refusal(make: Callable[[], tuple[Any, Any]]) -> str:
    """What mmvicreg.load says of a model; empty where it loads it."""
    with TemporaryDirectory() as folder:
        for part in make():
            part.save_pretrained(folder)
        word_tokenizer(Path(folder), end="</s>")
        try:
            mm.load(f"transformers/{folder}")
        except UserError as error:
            return str(error).replace(f"transformers/{folder}", "it")
    return ""
