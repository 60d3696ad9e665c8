"""Tiny encoders for the tests: an open_clip configuration, and transformers folders with random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

import mmvicreg as mm
from mmvicreg.modalities.vocabulary import write_vocabulary

WORDS = ("[PAD]", "[UNK]", "a", "photograph", "of", "cat", "dog", "small", "large")


@cache
def open_clip_name() -> str:
    """An open_clip model of 32 pixels and 12 tokens, known by the returned name."""
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = Path(mkdtemp()) / "tests-tiny.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return "open_clip/tests-tiny"


@cache
def text_folder() -> str:
    """A transformers folder: BERT of width 16 with a word tokenizer."""
    folder = mkdtemp()
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,  # masks differ between numbers of processes
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    return folder


@cache
def image_folder() -> str:
    """A transformers folder: ViT of width 16 over 32 pixels, with its own mean and deviation."""
    folder = mkdtemp()
    torch.manual_seed(4)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]).save_pretrained(folder)
    return folder


@cache
def audio_folder() -> str:
    """A transformers folder: wav2vec2 of width 16."""
    folder = mkdtemp()
    torch.manual_seed(5)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(8, 8),
        conv_kernel=(16, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    return folder


def image_and_captions(folder: Path, words: list[str]) -> dict[str, mm.Modality]:
    """A small ResNet, and a GRU over ``words`` that reads the captions of the JSON member's field c."""
    vocabulary = str(folder / "words.json")
    write_vocabulary([" ".join(words)], vocabulary, min_count=1)
    return {
        "image": mm.ImageModality(encoder="timm/test_resnet", size=64, projector=(8, 6)),
        "text": mm.TextModality(
            encoder="gru",
            vocabulary=vocabulary,
            word_width=8,
            state_width=8,
            length=9,
            projector=(8, 6),
            members=("json:c",),
        ),
    }


def write_open_clip_weights(folder: Path) -> str:
    """Weights of :func:`open_clip_name` with a configuration that asks for squashing and bilinear interpolation."""
    name = open_clip_name().partition("/")[2]
    torch.manual_seed(3)
    model = open_clip.create_model(name)
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    preprocess = {
        "mean": [0.2, 0.3, 0.4],
        "std": [0.5, 0.6, 0.7],
        "resize_mode": "squash",
        "interpolation": "bilinear",
    }
    content = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return str(folder / "open_clip_model.safetensors")
