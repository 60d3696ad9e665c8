"""Export to open_clip: its methods over a run, and a checkpoint that it loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import whole_folder, write_json, write_tensors
from mmvicreg.interop.encoding import input_of
from mmvicreg.modalities.encoders.lora import check_without_adapters
from mmvicreg.objectives.predictors import between
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import Run
from mmvicreg.stream.reader import Reader

FILES = ("open_clip_config.json", "open_clip_model.safetensors")
"""of a checkpoint that open_clip loads as ``local-dir:FOLDER``"""


class OpenClipAdapter(nn.Module):
    """Two branches of a run with open_clip's methods ``encode_image`` and ``encode_text``; see :func:`to_open_clip`."""

    def __init__(
        self, run: Run, *, image: str = "image", text: str = "text", predicted: bool = False
    ) -> None:
        super().__init__()
        self.image = run.model.branch_named(image)
        self.text = run.model.branch_named(text)
        self.predictor = between(run.predictors, image, text) if predicted else nn.Identity()

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """uint8 (n, 3, H, W) from the transform, to (n, D)."""
        return _maybe_unit(self.predictor(self.image(images).z), normalize)

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Token ids (n, L) from the tokenizer, to (n, D)."""
        return _maybe_unit(self.text(tokens).z, normalize)


def _maybe_unit(z_nD: Tensor, normalize: bool) -> Tensor:
    return nn.functional.normalize(z_nD, dim=-1) if normalize else z_nD


class ImageTransform:
    """A PIL image to the evaluation input of an image reader, uint8 (3, H, W)."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, image: Image.Image) -> Tensor:
        return input_of(self.reader, image)


class Tokenizer:
    """Texts to token ids int64 (n, L), by the run's text reader."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        return torch.stack(
            [self.reader.encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        )


def to_open_clip(
    run: Run, *, image: str = "image", text: str = "text", predicted: bool = False
) -> tuple[OpenClipAdapter, ImageTransform, Tokenizer]:
    """(model, preprocess, tokenizer) of two branches, with the methods of an open_clip model.

    ``predicted``: the image embedding is replaced by the text embedding that the run's predictor gives for it.
    """
    model = OpenClipAdapter(run, image=image, text=text, predicted=predicted).eval()
    readers = {name: run.modalities[name].reader() for name in (image, text)}
    return model, ImageTransform(readers[image]), Tokenizer(readers[text])


def save_open_clip(run: Run, folder: str | Path, *, image: str = "image", text: str = "text") -> Path:
    """An open_clip checkpoint of a run whose towers are open_clip's: load ``local-dir:FOLDER`` there.

    The folder appears whole or not at all. Raises ValueError where the towers are not of one open_clip model or have
    projectors behind them, or where the folder holds something else.
    """
    import open_clip

    from mmvicreg.modalities.encoders import pretrained as towers

    folder = _destination(folder)
    modalities: dict[str, Any] = {name: run.modalities[name] for name in (image, text)}
    names = {view: to_json(modality).get("encoder", "") for view, modality in modalities.items()}
    if len(set(names.values())) != 1 or not names[image].startswith("open_clip/"):
        raise InvalidValueError(
            f"an open_clip checkpoint needs both towers of one open_clip model, found {names}"
        )
    for view in (image, text):
        if len(list(run.model.branch_named(view).projector.parameters())):
            raise InvalidValueError(
                f"branch {view!r} has a projector, which an open_clip model has no place for; train with "
                "projector () or export it with save_pretrained"
            )
    model: Any = towers.open_clip_model(names[image], weights="")
    visual = run.model.branch_named(image).encoder
    for view in (image, text):
        check_without_adapters(run.model.branch_named(view).encoder, library="open_clip")
    assert isinstance(visual, nn.Sequential)  # pixel normalization, tower
    model.visual.load_state_dict(visual[1].state_dict())
    model.text.load_state_dict(run.model.branch_named(text).encoder.state_dict())
    found = open_clip.get_model_config(towers.split(names[image])[1])
    assert found is not None
    pixels = modalities[image].preprocessing()  # of a fresh model they would be the library's defaults
    preprocess = {"mean": list(pixels.mean), "std": list(pixels.std)}
    preprocess |= {"resize_mode": pixels.resize, "interpolation": pixels.interpolation}
    content = {"model_cfg": found | {"custom_text": True}, "preprocess_cfg": preprocess}
    with whole_folder(folder) as partial:
        write_json(partial / FILES[0], content)
        tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
        write_tensors(partial / FILES[1], tensors)
    return folder


def _destination(folder: str | Path) -> Path:
    """The folder, which is replaced as a whole: it must be new, empty, or hold such an export alone."""
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    others = [path.name for path in folder.iterdir() if path.name not in FILES] if folder.is_dir() else []
    if others:
        raise InvalidValueError(
            f"{folder} holds {others[0]!r}, which is no part of an open_clip checkpoint; choose another folder"
        )
    return folder
