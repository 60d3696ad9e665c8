"""Published architectures embed as their own library does: every family of open_clip and transformers, offline."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from photographs import crop
from towers_small import open_clip_name, write_open_clip_weights

import mmvicreg as mm
from mmvicreg.branches.model import Model
from mmvicreg.interop.export import save_pretrained
from mmvicreg.interop.open_clip import save_open_clip
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import Run

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
def test_every_family_embeds_as_its_own_library_does():
    done = subprocess.run(
        [sys.executable, "benchmarks/published_models.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 23
    assert {name: value for name, value in found.items() if not value < 1e-4} == {}


def test_the_page_names_every_family():
    page = (ROOT / "docs" / "published-models.md").read_text()
    for family in (
        "GroupViT",
        "FLAVA",
        "AIMv2",
        "BridgeTower",
        "SigLIP 2",
        "CLIPA",
        "PE",
        "MobileCLIP",
        "DFN",
        "CoCa",
        "EVA",
        "BLIP",
        "ALIGN",
        "AltCLIP",
    ):
        assert family in page


@torch.inference_mode()
def test_a_recipe_with_published_weights_evaluates_on_their_own_pixels_and_so_does_its_export(tmp_path):
    weights = write_open_clip_weights(tmp_path)
    image = mm.ImageModality(encoder=open_clip_name(), weights=weights, size=32, projector=())
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    picture = crop(3, width=97, height=40)
    theirs = model.eval().encode_image(transform(picture)[None])
    reader, branch = image.reader(), image.branch().eval()
    pixels = reader.prepare(np.asarray(picture))
    assert torch.allclose(branch(pixels[None]).z, theirs, atol=1e-5)
    run = Run(
        tmp_path, {"image": to_json(image)}, {"image": image}, Model({"image": branch}, {"image": "image"}), 1
    )
    exported = mm.load(save_pretrained(run, tmp_path / "export"))
    assert torch.allclose(exported.encode("image", picture, normalize=False), theirs, atol=1e-5)


@torch.inference_mode()
def test_an_open_clip_checkpoint_names_the_preprocessing_of_its_weights(tmp_path):
    (tmp_path / "theirs").mkdir()
    published = mm.load(f"{open_clip_name()}:{write_open_clip_weights(tmp_path / 'theirs')}")
    ours = save_open_clip(published, tmp_path / "ours")
    picture = crop(3, width=97, height=40)
    embeddings = []
    for folder in (tmp_path / "theirs", ours):
        model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        embeddings.append(model.eval().encode_image(transform(picture)[None]))
    assert torch.allclose(embeddings[0], embeddings[1], atol=1e-6)
    assert json.loads((ours / "open_clip_config.json").read_text())["preprocess_cfg"]["mean"] == [
        0.2,
        0.3,
        0.4,
    ]
    (ours / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds 'notes.txt', which is no part of an open_clip checkpoint"):
        save_open_clip(published, ours)


@pytest.mark.parametrize("kind,mode", [("clip", "shortest"), ("siglip", "squash")])
def test_a_recipe_with_a_transformers_tower_resizes_as_its_processor_does(kind, mode, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    square = {"height": 32, "width": 32}
    if kind == "clip":
        processor: Any = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square)
    else:
        processor = transformers.SiglipImageProcessor(size=square, resample=2)
    processor.save_pretrained(tmp_path)
    reader = mm.ImageModality(encoder=f"transformers/{tmp_path}", size=32).reader()
    assert reader.resize == mode
    picture = crop(5, width=97, height=64)
    theirs = processor(images=picture, return_tensors="pt", do_normalize=False)["pixel_values"][0]
    assert (reader.prepare(np.asarray(picture)) / 255 - theirs).abs().max() < 2.5 / 255


def test_unknown_preprocessing_is_refused():
    with pytest.raises(ValueError, match="resize is 'stretch'; expected one of shortest, squash, longest"):
        mm.ImageModality(resize="stretch").reader()
    with pytest.raises(ValueError, match="expected three numbers"):
        mm.ImageModality(mean=(0.5,), std=(0.5,)).reader()
