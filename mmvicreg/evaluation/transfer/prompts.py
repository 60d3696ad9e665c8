"""Zero-shot classification: the text branches of a run, and one embedding for each class name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmvicreg.branches.model import Branch
from mmvicreg.branches.padding import without_padding
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.transfer.classification import class_weights
from mmvicreg.files import typed_text
from mmvicreg.modalities.image import ImageModality
from mmvicreg.modalities.text import TextModality, TextReader
from mmvicreg.runs.run import Run
from mmvicreg.stream.reader import Reader, Sample

TEMPLATES = ("a photo of a {}.",)


def text_branches(run: Run) -> list[str]:
    """The branches that embed texts, whatever their names: those of a TextModality, or one that is called ``text``."""
    return [
        name
        for name, modality in run.modalities.items()
        if isinstance(modality, TextModality) or name == "text"
    ]


def image_branches(run: Run) -> list[str]:
    """The branches that embed pictures: those of an ImageModality, or one that is called ``image``."""
    return [
        name
        for name, modality in run.modalities.items()
        if isinstance(modality, ImageModality) or name == "image"
    ]


@torch.inference_mode()
def zero_shot_weights(
    branch: Branch,
    reader: Reader,
    names: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Unit rows (C, D) of the text branch, one per class name: the ensemble of its prompts (``{}`` takes the name).

    Raises ValueError for a template without ``{}`` or a text the reader cannot read.
    """
    if not names or not templates:
        raise InvalidValueError(f"{len(names)} class names and {len(templates)} templates; both are needed")
    for template in templates:
        if "{}" not in template:
            raise InvalidValueError(f"template {template!r} has no {{}} for the class name")
    prompts = []
    for name in names:
        texts = [template.replace("{}", name) for template in templates]
        values = torch.stack([text_item(reader, text) for text in texts])
        prompts.append(branch(without_padding(branch, values).to(device)).z.float().cpu())
    return class_weights(prompts)


def text_item(reader: Reader, text: str) -> Tensor:
    """What the reader makes of a text, whatever member it takes captions from."""
    text = typed_text(text)
    if isinstance(reader, TextReader):
        return reader.encode(text)
    items = reader.items(Sample("", 0, {member: text.encode() for member in reader.members}))
    if not items:
        raise InvalidValueError(f"{type(reader).__name__} reads no item from the text {text!r}")
    return items[0].value
