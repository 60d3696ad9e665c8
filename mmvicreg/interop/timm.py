"""Export to timm: the weights of an image encoder under the names that its library gives them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mmvicreg.files import write_tensors
from mmvicreg.modalities.encoders.lora import check_without_adapters
from mmvicreg.runs.run import Run


def save_image_encoder(run: Run, file: str | Path, *, image: str = "image") -> Path:
    """The image encoder's weights under the names its library gives them, as safetensors.

    ``timm.create_model(NAME, num_classes=0).load_state_dict(load_file(FILE))`` takes them, and so do
    detection and segmentation code bases that start from timm or torchvision weights.
    """
    branch = run.model.branch_named(image)
    encoder = branch.encoder[1] if isinstance(branch.encoder, nn.Sequential) else branch.encoder
    assert isinstance(encoder, nn.Module)
    check_without_adapters(encoder, library="timm")
    tensors = {name: value.contiguous().clone() for name, value in encoder.state_dict().items()}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_tensors(Path(file), tensors)
    return Path(file)
