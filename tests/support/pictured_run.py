"""A run of seconds on the demo's held-out images and captions, with validation: what pages about runs are tested on."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import mmvicreg as mm
from mmvicreg.modalities.vocabulary import make_vocabulary

SHARDS = str(Path(__file__).parents[2] / "data" / "demo" / "concepts-*.tar")


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    """A small convolutional network and a GRU."""

    train: str = SHARDS
    batch_size: int = 100
    epochs: float = 4.0
    log_every: int = 3
    cpu: bool = True
    image: mm.ImageModality = mm.ImageModality(encoder="timm/test_resnet", size=64, projector=(32, 32))
    text: mm.TextModality = mm.TextModality(encoder="gru", word_width=16, state_width=16, projector=(32, 32))


def objective(config: Config) -> mm.Objective:
    """VICReg's weights."""
    regularizer = mm.VICReg(variance=25.0, covariance=1.0)
    return mm.Objective(mm.Invariance(25.0), {"image": regularizer, "text": regularizer})


@dataclass(frozen=True)
class PicturedRun:
    """Where the run is, and the shards it was trained on."""

    folder: Path
    shards: str


@pytest.fixture(scope="session")
def pictured_run(tmp_path_factory: pytest.TempPathFactory) -> PicturedRun:
    """A finished run of image and text branches, 12 steps long, with three validations."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pictured")
    words = str(folder / "words.json")
    make_vocabulary(SHARDS, ("txt",), words, min_count=1)
    text = mm.TextModality(
        encoder="gru", vocabulary=words, word_width=16, state_width=16, length=6, projector=(32, 32)
    )
    validation = mm.ValidationConfig(data=SHARDS, every=4, samples=100)
    config = Config(out=str(folder / "run"), text=text, validation=validation)
    mm.train(config, objective)
    return PicturedRun(folder / "run", SHARDS)
