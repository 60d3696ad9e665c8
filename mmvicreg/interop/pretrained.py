"""Whatever can be scored, by name: a run directory, an export, or a published model as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.interop.hub import CONFIG as EXPORT_CONFIG
from mmvicreg.interop.hub import WEIGHTS, from_pretrained
from mmvicreg.modalities.image import ImageModality
from mmvicreg.modalities.modality import Modality
from mmvicreg.modalities.text import TextModality
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import Run, load
from mmvicreg.shards.index import cache_folder


def load_subject(
    name: str,
    *,
    recipe: str | None = None,
    step: int | Literal["best"] | None = None,
    average: bool = False,
) -> Run:
    """A run to score: RUN directory, exported folder, hf/OWNER/NAME, open_clip/NAME[:WEIGHTS],
    transformers/NAME-or-folder.

    WEIGHTS is an open_clip tag or a file; left out, they are random, for a floor. ``step`` and ``average`` are those
    of :func:`load`, for run directories. Raises FileNotFoundError or ValueError with what was looked for.
    """
    library, _, rest = name.partition("/")
    if name.startswith("hf/") or (
        (Path(name) / EXPORT_CONFIG).is_file() and (Path(name) / WEIGHTS).is_file()
    ):
        return from_pretrained(name)
    if Path(name).is_dir() or library not in ("open_clip", "transformers") or not rest:
        return load(name, recipe=recipe, step=step, average=average)
    modalities = _open_clip(rest) if library == "open_clip" else _transformers(rest)
    model = Model(
        {view: modality.branch() for view, modality in modalities.items()}, {v: v for v in modalities}
    )
    config = {view: to_json(modality) for view, modality in modalities.items()}
    folder = Path(cache_folder()) / "baselines" / name.replace("/", "--").replace(":", "--")
    return Run(folder, config, modalities, model.eval(), 0)


def _open_clip(name: str) -> dict[str, Modality]:
    import open_clip

    architecture, _, weights = name.partition(":")
    found = open_clip.get_model_config(architecture)
    if found is None:
        from mmvicreg.modalities.encoders.pretrained import unknown_name

        raise unknown_name(f"open_clip/{architecture}", open_clip.list_models(), "open_clip.list_models()")
    side = found["vision_cfg"].get("image_size", 224)
    length = found["text_cfg"].get("context_length", 77)
    shared: dict[str, Any] = {"encoder": f"open_clip/{architecture}", "weights": weights, "projector": ()}
    return {"image": ImageModality(size=side, **shared), "text": TextModality(length=length, **shared)}


def _transformers(name: str) -> dict[str, Modality]:
    from transformers import AutoConfig

    from mmvicreg.modalities.encoders.pretrained import locate

    folder = locate(name)
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"transformers/{name}: no model there ({error})") from None
    if not {"vision_config", "text_config"} <= set(config.to_dict()):
        raise InvalidValueError(
            f"transformers/{name} is a {config.model_type} model; expected CLIP, SigLIP or alike"
        )
    length = config.text_config.max_position_embeddings
    return {
        "image": PairedImage(encoder=f"transformers/{name}", size=config.vision_config.image_size),
        "text": PairedText(encoder=f"transformers/{name}", length=length),
    }


@dataclass(frozen=True)
class PairedImage(ImageModality):
    """The image side of a transformers CLIP or SigLIP, after its own projection."""

    projector: tuple[int, ...] = ()

    def branch(self) -> Branch:
        """uint8 (n, 3, size, size) to the model's image features."""
        from mmvicreg.modalities.encoders.pixel_normalization import PixelNormalization

        model, mean, std = _paired_model(self.encoder)
        return Branch(nn.Sequential(PixelNormalization(mean, std), _ImageFeatures(model)), nn.Sequential())


@dataclass(frozen=True)
class PairedText(TextModality):
    """The text side of a transformers CLIP or SigLIP, after its own projection."""

    projector: tuple[int, ...] = ()

    def branch(self) -> Branch:
        """Token ids int64 (n, length), negative for padding, to the model's text features."""
        model, _, _ = _paired_model(self.encoder)
        return Branch(
            _TextFeatures(model, padded=model.config.model_type.startswith("siglip")), nn.Sequential()
        )


def _paired_model(encoder: str) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    from transformers import AutoImageProcessor, AutoModel

    from mmvicreg.modalities.encoders.pretrained import locate, split

    folder = locate(split(encoder)[1])
    model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return model, tuple(processor.image_mean), tuple(processor.image_std)


def _features(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output  # a tensor before transformers 5


class _ImageFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        return _features(self.model.get_image_features(pixel_values=x))


class _TextFeatures(nn.Module):
    """SigLIP was trained on padded texts without a mask, CLIP with one."""

    def __init__(self, model: nn.Module, *, padded: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        mask = x >= 0
        pad = self.model.config.text_config.pad_token_id
        ids = torch.where(mask, x, 0 if pad is None else pad)
        options = {} if self.padded else {"attention_mask": mask.long()}
        return _features(self.model.get_text_features(input_ids=ids, **options))
