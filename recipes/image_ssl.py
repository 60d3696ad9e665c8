"""Pictures alone: two crops of one picture are two views of one branch, and no label or caption is read.

    python recipes/image_ssl.py
    python recipes/image_ssl.py --loss barlow --out runs/image-ssl-barlow

A small ResNet is trained from nothing on data/demo, then each picture of a style never trained on looks for the
concept it shows among the training pictures, by cosine of representations; so does the same net untrained.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

import mmvicreg as mm
from mmvicreg.fetch import Fetcher
from mmvicreg.runs import write_json

DATA = Path(__file__).parent.parent / "data" / "demo"
WIDTH = 256


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    """One branch, two views; every field can be set from the command line."""

    train: str = str(DATA / "train-*.tar")
    held_out: str = str(DATA / "style-*.tar")
    """held-out shards: concepts trained on, drawn in a style never trained on"""
    out: str = "runs/image-ssl"
    loss: Literal["vicreg", "visreg", "sigreg", "barlow", "simsiam"] = "vicreg"
    """what keeps the two views together and the branch spread out"""
    epochs: float = 20.0
    batch_size: int | Literal["auto"] = 128
    optimizer: mm.OptimizerConfig = mm.OptimizerConfig(
        learning_rate=2e-3, weight_decay=1e-4, warmup_epochs=2.0
    )
    image: mm.ImageModality = mm.ImageModality(
        encoder="timm/test_resnet",
        size=64,
        crop_scale=(0.3, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        grayscale=0.2,
        projector=(WIDTH, WIDTH),
    )

    def views(self) -> dict[str, str]:
        """Two crops go through one branch."""
        return {"crop": "image", "other_crop": "image"}


def objective(config: Config) -> mm.Objective:
    """The weights of each paper, or of its authors' code; SimSiam gets VICReg's variance term."""
    if config.loss == "barlow":
        return mm.Objective(mm.BarlowTwins(weight=0.1), {})
    if config.loss == "simsiam":
        predictor = mm.Prediction((WIDTH, WIDTH), hidden=(64,), distance="cosine")
        return mm.Objective(predictor, {"image": mm.VarianceCovariance(variance=1.0, covariance=0.0)})
    if config.loss == "visreg":
        return mm.Objective(mm.Invariance(weight=0.4), {"image": mm.VISReg(scale=0.6, shape=0.6, center=0.6)})
    if config.loss == "sigreg":
        return mm.Objective(mm.Invariance(weight=1.0), {"image": mm.SIGReg(weight=0.05)})
    return mm.Objective(mm.Invariance(weight=25.0), {"image": mm.VarianceCovariance()})


def embed(branch: mm.Branch, image: mm.ImageModality, shards: str) -> tuple[torch.Tensor, list[list[int]]]:
    """Representations of every picture, and a number for the concept it shows."""
    index, reader, pictures, concepts = mm.open_index(shards), image.reader(), [], []
    fetch = Fetcher(index)
    for number in range(len(index)):
        sample = fetch(*index.place(number), (*reader.members, "json"))
        pictures.append(reader.items(sample)[0].value)
        concepts.append([zlib.crc32(json.loads(sample.members["json"])["concept"].encode())])
    with torch.no_grad():
        return torch.cat([branch.eval().represent(x) for x in torch.stack(pictures).split(64)]), concepts


def main(config: Config) -> None:
    """Train; then held-out pictures look for their concept among the training pictures."""
    run = mm.run(config, objective)
    torch.manual_seed(config.seed)
    scores = {}
    for name, branch in (("untrained", config.image.branch()), ("held_out", run.model.branch("crop"))):
        (queries, wanted), (items, shown) = (
            embed(branch, config.image, shards) for shards in (config.held_out, config.train)
        )
        positives = mm.Positives.from_identities(wanted, shown)
        found = mm.retrieval(queries, items, positives, skip_unmatched=True, resamples=1000)
        scores[name] = {"image_to_image": found.to_json()}
        print(
            f"{name}: R@1 {found.recall[1]:.1%} (chance {found.chance[1]:.1%}), R@10 {found.recall[10]:.1%}"
        )
    write_json(run.folder / "summary.json", scores)


if __name__ == "__main__":
    main(tyro.cli(Config))
