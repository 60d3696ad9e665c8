"""Encoders of images and texts by name, from timm and open_clip: a module that gives (n, E), and E.

A name is ``LIBRARY/MODEL``; for transformers (see :mod:`mmvicreg.modalities.encoders.hugging_face`) MODEL may be a
folder or ``package:NAME/FOLDER``, a folder inside an installed Python package, found without importing it. Weights are
"" (random), "hub" (the library's own download), an open_clip tag, or a file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, first_line
from mmvicreg.modalities.encoders.weights import fill, load_weights, locate, read_tensors

LIBRARIES = ("timm", "open_clip", "transformers")


@dataclass(frozen=True)
class Tower:
    """``module`` maps inputs to (n, ``width``); ``mean`` and ``std`` are per channel on the scale 0 to 1.

    ``ignores_padding``: of texts; ids below 0 at the end of a row change nothing.
    """

    module: nn.Module
    width: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    ignores_padding: bool = False


def split(encoder: str) -> tuple[str, str]:
    """``LIBRARY/MODEL`` in two; ValueError where the library is none of ours."""
    library, _, name = encoder.partition("/")
    if library not in LIBRARIES or not name:
        raise InvalidValueError(
            f"encoder {encoder!r}: expected LIBRARY/NAME with LIBRARY one of {', '.join(LIBRARIES)}, such as "
            "'timm/resnet50'; an encoder of your own goes into a modality of your own "
            "(a dataclass with reader() and branch())"
        )
    return library, name


def unknown_name(encoder: str, known: list[str], listing: str) -> InvalidValueError:
    """The error for a name its library does not have, with the nearest ones."""
    near = get_close_matches(encoder.partition("/")[2], known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see {listing}"
    return InvalidValueError(f"encoder {encoder!r}: no such model in {encoder.partition('/')[0]}; {hint}")


def cannot_download(encoder: str, error: Exception) -> InvalidValueError:
    """The error for a model that its library does not get from the hub, or cannot build."""
    reason = first_line(error)
    return InvalidValueError(
        f"encoder {encoder!r}: its library could not load it: {reason} Names of the hub need the network once (later "
        "runs read the local copy); without it, give a file as weights or a folder as the encoder"
    )


def timm_image(encoder: str, *, weights: str, size: int | tuple[int, int], channels: int = 3) -> Tower:
    """A timm model without its classifier; its pooled features. ``size`` is a side, or (rows, columns)."""
    import timm
    from huggingface_hub.errors import HTTPError

    name = split(encoder)[1]
    rows, columns = (size, size) if isinstance(size, int) else size
    options: dict[str, Any] = {"pretrained": weights == "hub", "num_classes": 0, "in_chans": channels}
    try:
        module = timm.create_model(name, **options)
    except (RuntimeError, OSError, HTTPError) as error:
        if "Unknown model" in str(error):
            raise unknown_name(encoder, timm.list_models(), "timm.list_models()") from None
        raise cannot_download(encoder, error) from error
    config = timm.data.resolve_model_data_config(module)
    own: Any = module.pretrained_cfg
    if own.get("fixed_input_size") and tuple(config["input_size"][1:]) != (rows, columns):
        module = timm.create_model(name, **options, img_size=(rows, columns))
    if weights not in ("", "hub"):
        load_weights(module, weights)
    width: Any = module.num_features
    return Tower(module, width, tuple(config["mean"]), tuple(config["std"]))


def open_clip_model(encoder: str, *, weights: str) -> nn.Module:
    """An open_clip model with separate ``visual`` and ``text`` towers.

    ``weights`` is empty for random ones, a tag, "hub" for its first tag, or a file: open_clip's own checkpoints
    (training .pt with optimizer state, plain .pt, safetensors of the hub) and those this package exports.
    """
    import open_clip
    from huggingface_hub.errors import HTTPError

    name = split(encoder)[1]
    if name not in open_clip.list_models():
        raise unknown_name(encoder, open_clip.list_models(), "open_clip.list_models()")
    tag = _open_clip_tag(name, weights)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # "initialized randomly" is what was asked for
    try:
        model = open_clip.create_model(
            name, pretrained=tag, force_custom_text=True, pretrained_text=tag is not None
        )
    except (OSError, HTTPError, RuntimeError) as error:
        if tag is None:
            raise
        raise cannot_download(encoder, error) from None
    finally:
        logger.setLevel(level)
    if weights and tag is None:
        fill(model, _open_clip_names(model, read_tensors(weights)), weights)
    return model


def _open_clip_tag(name: str, weights: str) -> str | None:
    """The tag that ``weights`` stands for; None for random weights and for a file."""
    import open_clip

    if not weights or Path(locate(weights)).is_file():
        return None
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights == "hub" and tags:
        return tags[0]
    if weights not in tags:
        raise InvalidValueError(
            f"weights {weights!r}: no such file, and not a tag of open_clip/{name}: {', '.join(tags)}"
        )
    return weights


def _open_clip_names(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of any checkpoint that open_clip writes, under the names and shapes that ``model`` has."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    state = convert_state_dict(model, state)
    if "positional_embedding" in state:  # written by a model whose text tower is not a module of its own
        state = convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in wanted and scalar in state:
            state[scalar] = state[scalar].reshape(wanted[scalar].shape)
        elif scalar in wanted and any(name.startswith("visual.") for name in state):
            state[scalar] = wanted[scalar]  # part of the loss, not of an embedding
    if any(name.startswith("visual.") for name in state):
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    # Buffers that neither learn nor are always saved, such as the attention mask and position ids.
    buffers = {name: value for name, value in model.named_buffers() if name in wanted}
    return {**{name: value for name, value in buffers.items() if name not in state}, **state}


def open_clip_image(encoder: str, *, weights: str, size: int) -> Tower:
    """The visual tower of an open_clip model, after its own projection."""
    model = open_clip_model(encoder, weights=weights)
    visual: Any = model.visual
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    if side != size:
        raise InvalidValueError(
            f"encoder {encoder!r} takes images of {side} pixels, found size {size}; set size to {side}"
        )
    module, width = _single_output(visual, torch.zeros(2, 3, side, side))
    return Tower(module, width, tuple(visual.image_mean), tuple(visual.image_std))


def open_clip_text(encoder: str, *, weights: str, length: int) -> Tower:
    """The text tower of an open_clip model, after its own projection; ids (n, length) in."""
    text: Any = open_clip_model(encoder, weights=weights).text
    if text.context_length != length:
        raise InvalidValueError(
            f"encoder {encoder!r} takes {text.context_length} tokens, found length {length}; "
            f"set length to {text.context_length}"
        )
    return Tower(*_single_output(text, torch.ones(2, length, dtype=torch.int64)))


class FirstOutput(nn.Module):
    """A tower that gives its embedding and its tokens (CoCa), without the tokens."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x)[0]


def _single_output(module: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
    """The tower as a module of one output (n, E), and E."""
    was_training = module.training
    with torch.no_grad():
        found = module.eval()(example)
    module.train(was_training)
    if isinstance(found, tuple):
        return FirstOutput(module), found[0].shape[-1]
    return module, found.shape[-1]
