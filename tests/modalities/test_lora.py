"""Low-rank adapters: the tower gives at first what it gave, only adapters learn, and exports keep them."""

from typing import Any

import pytest
import torch
from towers_small import image_folder, text_folder

import mmvicreg as mm
from mmvicreg.branches.model import Model
from mmvicreg.interop.export import save_pretrained
from mmvicreg.interop.timm import save_image_encoder
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import Run

PIXELS = torch.arange(2 * 3 * 32 * 32, dtype=torch.int64).remainder(251).to(torch.uint8).view(2, 3, 32, 32)
IMAGE: dict[str, Any] = {
    "encoder": f"transformers/{image_folder()}",
    "weights": "hub",
    "size": 32,
    "projector": (6,),
}
TEXT: dict[str, Any] = {
    "encoder": f"transformers/{text_folder()}",
    "weights": "hub",
    "length": 12,
    "projector": (6,),
}
IDS = torch.tensor([[2, 3, 4, -1, -1, -1, -1, -1, -1, -1, -1, -1], [2, 5, 6, 7, 8, 3, 2, 2, 2, 2, 2, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("kind,fields,x", [(mm.ImageModality, IMAGE, PIXELS), (mm.TextModality, TEXT, IDS)])
def test_only_adapters_and_projector_learn_from_the_tower_as_it_was(kind, fields, x):
    plain, adapted = kind(**fields).branch().eval(), kind(**fields, lora=2).branch().eval()
    assert torch.allclose(plain(x).h, adapted(x).h, atol=1e-6)
    learning = {name for name, p in adapted.encoder.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 1.0)
    for _ in range(2):  # one factor is zero at first: the other has a gradient from the second step on
        optimizer.zero_grad()
        adapted(x).z.square().sum().backward()
        optimizer.step()
    changed = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"encoder.{name}" for name in learning} | {"projector.0.weight"}
    assert not torch.allclose(plain(x).h, adapted(x).h, atol=1e-4)


def test_an_export_keeps_adapters_and_other_libraries_formats_refuse_them(tmp_path):
    image = mm.ImageModality(**IMAGE, lora=2, lora_targets=("q_proj",))
    branch = image.branch().eval()
    for name, parameter in branch.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.3)
    run = Run(
        tmp_path, {"image": to_json(image)}, {"image": image}, Model({"image": branch}, {"image": "image"}), 1
    )
    exported = mm.load(save_pretrained(run, tmp_path / "export"))
    assert torch.allclose(exported.model.branch("image")(PIXELS).z, branch(PIXELS).z, atol=1e-6)
    with pytest.raises(ValueError, match="LoRA adapters, which timm cannot load"):
        save_image_encoder(run, tmp_path / "x.safetensors")


def test_a_tower_that_is_freed_at_a_step_trains_its_adapters_alone():
    branch = mm.ImageModality(**IMAGE, lora=2).branch()
    learning = {name for name, p in branch.named_parameters() if p.requires_grad}
    branch.freeze(True)
    assert not any(p.requires_grad for p in branch.encoder.parameters())
    branch.freeze(False)
    assert {name for name, p in branch.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"lora": -1}, "rank is -1"),
        ({"lora": 2, "frozen": True}, "leave one of the two out"),
        ({"lora": 2, "lora_targets": ("qkv",)}, "no such linear layer in Pooled, which has model"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        mm.ImageModality(**IMAGE, **fields).branch()
