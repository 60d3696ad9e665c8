"""Encoders from transformers: their configuration checked, their token states pooled to one representation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmvicreg.branches.padding import padding_is_ignored
from mmvicreg.errors import InvalidValueError, first_line
from mmvicreg.modalities.encoders.pretrained import Tower, cannot_download, split
from mmvicreg.modalities.encoders.weights import load_weights, locate

Input = Literal["text", "image", "audio"]
"""What a model takes: token ids, pixels, or a waveform."""
ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Implementations of attention that a configuration may name; others are repositories whose code would be run."""


class WrongInputError(InvalidValueError):
    """The model takes another kind of input than this modality gives."""


class Pooled(nn.Module):
    """A transformers model whose token states (n, L, E) become one representation (n, E).

    ``pool`` is "mean" over real tokens, "first", or "last" real token. For text, ids below 0 are padding, so that the
    attention mask travels with the ids in one array.
    """

    def __init__(self, model: nn.Module, pool: str, *, takes: Input) -> None:
        super().__init__()
        self.model = model
        self.pool = pool
        self.takes = takes

    def forward(self, x: Tensor) -> Tensor:
        if self.takes == "text":
            mask = x >= 0
            states = self.model(input_ids=x.clamp(min=0), attention_mask=mask.long()).last_hidden_state
        else:
            name = "pixel_values" if self.takes == "image" else "input_values"
            states = self.model(**{name: x}).last_hidden_state
            if states.dim() == 4:  # convolutional: (n, E, rows, columns)
                states = states.flatten(2).transpose(1, 2)
            mask = states.new_ones(states.shape[:2], dtype=torch.bool)
        if self.pool == "first":
            return states[:, 0]
        if self.pool == "last":
            return states[torch.arange(len(x), device=x.device), mask.sum(1).clamp(min=1) - 1]
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def read_config(folder: str, *, encoder: str) -> Any:
    """The configuration of a transformers model, from a folder or the hub. No code of the model's author is run.

    Raises ValueError where there is none, and for an attention implementation that would be downloaded as code.
    """
    from huggingface_hub.errors import HTTPError, StrictDataclassError
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, HTTPError, ValueError, StrictDataclassError) as error:
        raise InvalidValueError(
            f"encoder {encoder!r}: transformers finds no model there; expected a folder with config.json (and "
            f"model.safetensors), or a model name that can be downloaded ({first_line(error)})"
        ) from None
    for part in _parts(config):
        named = vars(part).get("_attn_implementation_internal")
        if named not in ATTENTIONS:
            raise InvalidValueError(
                f"encoder {encoder!r}: its configuration asks for the attention implementation {named!r}, which is "
                f"code of a repository; expected one of {', '.join(str(name) for name in ATTENTIONS[1:])}"
            )
    return config


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and those inside it."""
    from transformers import PretrainedConfig

    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)


def transformers_tower(encoder: str, *, weights: str, pool: str, takes: Input) -> Tower:
    """A transformers model (its text or vision part where it has both), pooled.

    Parameters that its pooled states do not depend on (BERT's own pooler) are not trained: DDP would wait for
    their gradients.
    """
    from huggingface_hub.errors import HTTPError
    from transformers import AutoModel

    folder = locate(split(encoder)[1])
    config = read_config(folder, encoder=encoder)
    if takes == "audio":
        _prepare_audio(encoder, config)
    try:
        if weights == "hub":
            model = AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, trust_remote_code=False
            )
        else:
            model = AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, HTTPError, ValueError) as error:
        raise cannot_download(encoder, error) from None
    part = "text_model" if takes == "text" else "vision_model"
    module = getattr(model, part) if part in dict(model.named_children()) else model
    if weights not in ("", "hub"):
        load_weights(module, weights)
    return _pooled(module, folder, pool=pool, takes=takes)


def _pooled(module: nn.Module, folder: str, *, pool: str, takes: Input) -> Tower:
    config: Any = module.config
    plain = config.to_dict()
    width = plain["hidden_sizes"][-1] if "hidden_sizes" in plain else config.hidden_size
    pooled = Pooled(module, pool, takes=takes)
    if takes == "audio":
        _freeze_unused(pooled, torch.zeros(1, 16_000))
        return Tower(pooled, width)
    if takes == "text":
        _freeze_unused(pooled, torch.zeros(1, 2, dtype=torch.int64))
        return Tower(pooled, width, ignores_padding=padding_is_ignored(pooled))
    size = plain.get("image_size", 64)
    _freeze_unused(pooled, torch.zeros(1, 3, size, size))
    return Tower(pooled, width, *_normalization(folder))


def _prepare_audio(encoder: str, config: Any) -> None:
    if "conv_dim" not in config.to_dict():
        raise WrongInputError(
            f"encoder {encoder!r} is a {config.model_type}, which takes no waveform; choose a model such as "
            "wav2vec2, HuBERT or WavLM, or timm/NAME over log-mel"
        )
    # Masking and dropped layers have parameters that only some steps use: DDP would wait for their gradients.
    config.mask_time_prob = config.mask_feature_prob = config.layerdrop = 0.0


def _freeze_unused(module: nn.Module, example: Tensor) -> None:
    """Stop training what the output does not depend on."""
    was_training = module.training
    module.eval()(example).sum().backward()
    module.train(was_training)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def _normalization(folder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels a model was trained with; one half where it does not say."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        return tuple(processor.image_mean), tuple(processor.image_std)
    except OSError:
        return (0.5,) * 3, (0.5,) * 3
