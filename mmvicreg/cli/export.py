"""``mmvicreg export``: write a run for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmvicreg.cli.model_options import Model, ModelOptions, Out
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError, WrongOptionError


@dataclass(frozen=True)
class ExportConfig(ModelOptions):
    """Write a run as a folder that loads without its recipe, or in the format of another tool."""

    run: Model
    """run directory"""
    out: Out
    """folder (hub, open_clip) or file (image, onnx) to write"""
    format: Literal["hub", "open_clip", "image", "onnx"] = "hub"
    """hub: safetensors, JSON and a model card; open_clip: its checkpoint; image: timm/torchvision weights; onnx"""
    branch: str = "image"
    """image, onnx: which branch"""
    push: str = ""
    """hub: also upload to this Hugging Face repository (OWNER/NAME)"""

    def __post_init__(self) -> None:
        if self.push and self.format != "hub":
            raise WrongOptionError(
                f"--push uploads --format hub, found --format {self.format}; leave one of them out"
            )


def export(config: ExportConfig) -> Output:
    """Write the export and say where."""
    from mmvicreg.interop.onnx import save_onnx
    from mmvicreg.interop.open_clip import save_open_clip
    from mmvicreg.interop.timm import save_image_encoder

    folder = config.format in ("hub", "open_clip")
    if Path(config.out).is_file() if folder else Path(config.out).is_dir():
        kinds = ("a file", "a folder") if folder else ("a folder", "a file")
        raise InvalidValueError(
            f"{config.out} is {kinds[0]}; --format {config.format} writes {kinds[1]}: choose another name"
        )
    run = config.load(config.run)
    pushed = ""
    if config.format == "hub":
        path = run.save_pretrained(config.out)
        pushed = run.push_to_hub(config.push) if config.push else ""
    elif config.format == "open_clip":
        path = save_open_clip(run, config.out)
    elif config.format == "image":
        path = save_image_encoder(run, config.out, image=config.branch)
    else:
        path = save_onnx(run, config.out, branch=config.branch)
    lines = [*([f"pushed: {pushed}"] if pushed else []), f"written: {path}"]
    return Output({"written": str(path), "pushed": pushed}, tuple(lines))
