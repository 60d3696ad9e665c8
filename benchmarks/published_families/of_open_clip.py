"""Families of open_clip, built small with random weights and the preprocessing that published weights state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

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


def open_clip_family(
    name: str, model: dict[str, Any], *, resize: str = "shortest", interpolation: str = "bicubic", mean: float = 0.48,
    bert: bool = False,
) -> Family:  # fmt: skip
    """A configuration of open_clip, with the preprocessing that its weights state."""
    preprocess = {
        "mean": [mean] * 3, "std": [0.27, 0.26, 0.5], "resize_mode": resize, "interpolation": interpolation,
        "fill_color": 0,
    }  # fmt: skip

    def build(folder: Path) -> tuple[str, Embeddings]:
        import open_clip
        from safetensors.torch import save_file

        if bert:
            word_tokenizer(folder, end="</s>")
            model["text_cfg"] |= {"hf_tokenizer_name": str(folder), "vocab_size": len(WORDS)}
        configs = folder / "configs"
        configs.mkdir()
        known = "small-" + "".join(c if c.isalnum() else "-" for c in name)
        (configs / f"{known}.json").write_text(json.dumps(model))
        open_clip.add_model_config(configs)
        torch.manual_seed(1)
        made = open_clip.create_model(known)
        weights = {name: value.contiguous().clone() for name, value in made.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")
        content = {"model_cfg": model, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        return f"open_clip/{known}:{folder / 'open_clip_model.safetensors'}", by_open_clip(folder)

    return Family(f"open_clip {name}", f"{resize}, {interpolation}", build)


@torch.inference_mode()
def by_open_clip(folder: Path) -> Embeddings:
    """The library's own pipeline from a folder that it wrote: model, transform and tokenizer."""
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model = model.eval()
    images = torch.cat([model.encode_image(transform(picture)[None]) for picture in own_pictures()])
    texts = torch.cat([model.encode_text(tokenizer([text])) for text in TEXTS])
    return Embeddings(unit(images), unit(texts))


def small_siglip(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """timm's vision transformer as its SigLIP models set it, small: theirs have no small size."""
    from timm.models.vision_transformer import VisionTransformer

    sizes: Any = {"img_size": SIDE, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
    wanted = {name: options[name] for name in ("num_classes", "global_pool")}
    return VisionTransformer(**sizes, class_token=False, **wanted)


def open_clip_families() -> list[Family]:
    from timm.models import is_model, register_model

    if not is_model("small_siglip"):
        register_model(small_siglip)
    vit = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

    def model(vision: dict[str, Any], words: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text | (words or {}), **more}

    def timm(name: str, pool: str, **more: Any) -> dict[str, Any]:
        options = {
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": pool,
            "timm_proj": "linear",
        }
        return options | {"image_size": SIDE} | more

    whole = {"output_tokens": True}
    coca = vit | {"attentional_pool": True, "attn_pooler_heads": 2} | whole
    siglip = {
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    return [
        open_clip_family("CLIP ViT", model(vit)),
        open_clip_family(
            "CLIP ResNet",
            model({"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}),
        ),
        open_clip_family("DFN", model(vit, quick_gelu=True), resize="squash", interpolation="bilinear"),
        open_clip_family(
            "CLIPA",
            model(
                vit | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
                {"pool_type": "last", "no_causal_mask": True, "tokenizer_kwargs": {"strip_sep_token": True}},
            ),
            resize="squash",
            interpolation="bilinear",
            bert=True,
        ),
        open_clip_family(
            "SigLIP",
            model(
                timm("small_siglip", "map", timm_proj="none"), siglip, custom_text=True, init_logit_bias=-10
            ),
            resize="squash",
            mean=0.5,
            bert=True,
        ),
        open_clip_family(
            "SigLIP 2",
            model(timm("small_siglip", "map", timm_proj="none"), siglip, custom_text=True),
            resize="squash",
            interpolation="bilinear",
            mean=0.5,
            bert=True,
        ),
        open_clip_family(
            "PE",
            model(
                timm("vit_pe_core_tiny_patch16_384", "map", timm_proj=None, image_size=384), custom_text=True
            ),
            resize="squash",
            interpolation="bilinear",
            mean=0.5,
        ),
        open_clip_family(
            "MobileCLIP",
            model(timm("fastvit_mci0", "avg"), {"no_causal_mask": True}, custom_text=True),
            interpolation="bilinear",
            mean=0.0,
        ),
        open_clip_family(
            "EVA",
            model(timm("eva02_tiny_patch14_224", "token", timm_proj=None, image_size=224), custom_text=True),
        ),
        open_clip_family("ViTamin", model(timm("vitamin_small_224", "", image_size=224), custom_text=True)),
        open_clip_family("ConvNeXt", model(timm("test_convnext", ""), custom_text=True), resize="longest"),
        open_clip_family(
            "CoCa",
            model(
                coca,
                {"embed_cls": True} | whole,
                multimodal_cfg=text | {"attn_pooler_heads": 2},
                custom_text=True,
            ),
        ),
    ]
