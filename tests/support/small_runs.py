"""Runs with small random towers, and the fixtures that make them."""

import json
from pathlib import Path

import pytest
import torch

import mmvicreg as mm
from mmvicreg.branches.model import Model
from mmvicreg.modalities.vocabulary import write_vocabulary
from mmvicreg.runs.run import Run

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make_run(folder: Path, modalities: dict[str, mm.Modality]) -> Run:
    """An untrained run of these modalities, a view each."""
    torch.manual_seed(0)
    model = Model({name: m.branch() for name, m in modalities.items()}, {name: name for name in modalities})
    return Run(folder, {}, modalities, model.eval(), 7)


@pytest.fixture
def small_run(tmp_path: Path) -> Run:
    """timm and a GRU, each with a projector."""
    write_vocabulary(["a red bird", "a blue boat"], str(tmp_path / "words.json"), min_count=1)
    image = mm.ImageModality(encoder="timm/test_resnet", size=64, projector=(8, 6))
    text = mm.TextModality(
        encoder="gru",
        vocabulary=str(tmp_path / "words.json"),
        word_width=8,
        state_width=8,
        length=9,
        projector=(8, 6),
    )
    return make_run(tmp_path, {"image": image, "text": text})


@pytest.fixture(scope="session")
def tiny_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name under which open_clip finds a small model."""
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "tiny-mmvicreg.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    return "tiny-mmvicreg"


@pytest.fixture
def tiny(tmp_path: Path, tiny_name: str) -> Run:
    """open_clip's towers, without projectors."""
    encoder = f"open_clip/{tiny_name}"
    image = mm.ImageModality(encoder, size=32, projector=())
    return make_run(tmp_path, {"image": image, "text": mm.TextModality(encoder, length=12, projector=())})
