"""Pictures with each other and with their names: SLIP's two tasks (arXiv 2112.12750) without negatives.

    python recipes/slip_like.py
    python recipes/slip_like.py --ssl 0 --out runs/slip-like-names-only

A small ResNet is trained from random weights on data/demo. Two strong crops are two views of the image branch; the
first is also aligned with the name, which a frozen MiniLM has encoded once. About two minutes of CPU time. R@1 in
percent of 400 pictures of a style never trained on, seed 0 (95% interval over queries; chance 0.25):

                       image -> text          text -> image
    both tasks         10.5 (7.5 to 13.8)     11.5 (8.2 to 14.8)
    names only         11.5 (8.2 to 14.8)     11.2 (8.0 to 14.5)

At this size the second task neither helps nor harms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mmvicreg as mm


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    """Three views, two branches; every field can be set from the command line."""

    train: str = str(mm.demo_data() / "train-*.tar")
    style: str = str(mm.demo_data() / "style-*.tar")
    """held-out shards: concepts trained on, drawn in a style never trained on"""
    out: str = "runs/slip-like"
    ssl: float = 12.5
    """weight of the invariance between two crops, between 0 and 25; pictures and names get the rest of 25"""
    epochs: float = 12.0
    batch_size: mm.BatchSize = 128
    optimizer: mm.OptimizerConfig = mm.OptimizerConfig(
        learning_rate=2e-3, weight_decay=1e-2, warmup_epochs=2.0
    )
    image: mm.ImageModality = mm.ImageModality(
        encoder="timm/test_resnet",
        size=64,
        crop_scale=(0.3, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        grayscale=0.1,
        projector=(512, 512),
    )
    text: mm.TextModality = replace(
        mm.MINILM,
        projector=(512, 512),
        dropout=0.2,
        precomputed_views=1,
    )

    def __post_init__(self) -> None:
        """Refuse a weight that leaves none, or less, for pictures and names."""
        if not 0 <= self.ssl < 25:
            raise ValueError(
                f"ssl is {self.ssl:g}; expected 0 to below 25: pictures and names get the rest of 25"
            )

    def views(self) -> dict[str, str]:
        """Two crops go through one branch."""
        crops = {"image": "image", "crop": "image"} if self.ssl else {"image": "image"}
        return {**crops, "text": "text"}


def objective(config: Config) -> mm.Objective:
    """VICReg on both pairs, whose weights sum to 25; the second crop is not aligned with the name, as in SLIP."""
    names = mm.Invariance(25.0 - config.ssl)
    pairs: dict[tuple[str, str], mm.Alignment] = {("image", "text"): names}
    if config.ssl:
        pairs["image", "crop"] = mm.Invariance(config.ssl)
    regularizer = mm.VICReg(variance=25.0, covariance=1.0)
    return mm.Objective(pairs, {"image": regularizer, "text": regularizer})


def main(config: Config) -> None:
    """Train, score what was held out, and write the report."""
    run = mm.train(config, objective)
    mm.evaluate(run, {"held_out": config.style})


if __name__ == "__main__":
    main(mm.parse_command_line(Config))
