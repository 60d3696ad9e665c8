"""How the images of published weights were prepared: resize mode, interpolation, mean and standard deviation."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.encoders.pretrained import split
from mmvicreg.modalities.encoders.weights import locate

CONFIG = "open_clip_config.json"
"""File that open_clip writes beside the weights of a folder or repository."""
RESIZES = ("shortest", "squash", "longest")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to the square that a tower takes; ``mean`` and ``std`` are empty where the tower says."""

    resize: str = "shortest"
    """shortest (the middle is cut out), squash (without regard to the aspect ratio) or longest (black at the edges)"""
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def with_settings(
        self, *, resize: str, interpolation: str, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Preprocessing:
        """The same with the settings that are not empty. Raises ValueError for one that is unknown."""
        given = {"resize": resize, "interpolation": interpolation, "mean": mean, "std": std}
        made = replace(self, **{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
        for name, value, known in (
            ("resize", made.resize, RESIZES),
            ("interpolation", made.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise InvalidValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        if {len(made.mean), len(made.std)} - {0, 3} or not all(value > 0 for value in made.std):
            raise InvalidValueError(
                f"mean {made.mean} and std {made.std}: expected three numbers each, std above 0"
            )
        return made


def preprocessing_of(encoder: str, weights: str) -> Preprocessing:
    """The preprocessing of an image encoder with these weights; the default where its library states none."""
    library, name = split(encoder)
    if library == "open_clip":
        found = preprocessing(name, weights)
        return Preprocessing(
            found["resize_mode"], found["interpolation"], tuple(found["mean"]), tuple(found["std"])
        )
    if library == "transformers":
        return _of_processor(locate(name))
    return Preprocessing()


def _of_processor(folder: str) -> Preprocessing:
    """Of a transformers model: a resize to both sides without a crop squashes; mean and std are read with the tower."""
    from huggingface_hub.errors import HTTPError
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, HTTPError, ValueError):
        return Preprocessing()
    plain = processor.to_dict()
    squash = "height" in (plain.get("size") or {}) and not plain.get("do_center_crop")
    bilinear = plain.get("resample") == 2
    return Preprocessing("squash" if squash else "shortest", "bilinear" if bilinear else "bicubic")


def preprocessing(architecture: str, weights: str) -> dict[str, Any]:
    """open_clip's PreprocessCfg of some weights, as a dictionary without the size.

    Of a tag, its own. Of a file, what the configuration beside it says, else what all tags of the architecture agree
    on, else open_clip's defaults, which are also those of random weights.
    """
    import open_clip

    default = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    return default | {
        name: value for name, value in _stated(architecture, weights).items() if name in default
    }


def _stated(architecture: str, weights: str) -> dict[str, Any]:
    import open_clip

    if not weights:
        return {}
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    file = Path(locate(weights))
    if not file.is_file():
        tag = tags[0] if weights == "hub" and tags else weights
        return open_clip.get_pretrained_cfg(architecture, tag)
    beside = file.with_name(CONFIG)
    if beside.is_file():
        return json.loads(beside.read_text(encoding="utf-8")).get("preprocess_cfg", {})
    found = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    names = ("mean", "std", "interpolation", "resize_mode")
    agreed = {str([each.get(name) for name in names]): each for each in found}
    return next(iter(agreed.values())) if len(agreed) == 1 else {}
