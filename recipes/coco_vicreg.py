"""VICReg on MS-COCO captions: the image-text experiment of the VICReg paper (arXiv 2105.04906, section 5.3).

    python data/make_coco.py --images COCO_FOLDER --captions dataset_coco.json --out coco
    accelerate launch recipes/coco_vicreg.py                   # 8 GPUs of 80 GB: about a day (estimated)
    mmvicreg evaluate runs/coco-vicreg --data coco/coco-test-*.tar

ResNet-152 and a word-embedding GRU (the setting of VSE++), Karpathy's split, 30 epochs. Expected by the paper on
the 5K test images: image to text R@1/5/10 45.2/76.1/84.2, text to image 33.6/62.7/77.9 (its columns are printed
the other way round; this reading agrees with VSE++'s own numbers). The paper states neither coefficients, batch,
expander nor optimizer, and no one has reported a reproduction: the values below are our starting point, not its.
Estimated, not measured: 45 GB a GPU at 128 images each (ResNet-152, bf16), 20 GB of disk. Only toy sizes were run.
"""

from __future__ import annotations

from dataclasses import dataclass

import mmvicreg as mm


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    """The paper's COCO setting; every field can be set from the command line."""

    train: str = "coco/coco-train-*.tar"
    out: str = "runs/coco-vicreg"
    batch_size: mm.BatchSize = 1024
    epochs: float = 30.0
    precision: mm.Precision = "bf16"
    threads: int = 8
    optimizer: mm.OptimizerConfig = mm.OptimizerConfig(
        learning_rate=2e-4, weight_decay=1e-6, warmup_epochs=1.0, max_gradient_norm=2.0
    )
    image: mm.ImageModality = mm.ImageModality(
        encoder="timm/resnet152", weights="hub", learning_rate=2e-5, crop_scale=(0.5, 1.0), flip=0.5,
        projector=(8192, 8192, 8192),
    )  # fmt: skip
    text: mm.TextModality = mm.TextModality(
        encoder="gru", members=("json:captions",), length=64, vocabulary="coco/vocabulary.json",
        projector=(8192, 8192, 8192),
    )  # fmt: skip
    invariance: float = 25.0
    """weight of the invariance between branches"""
    image_variance: float = 25.0
    """weight of the image branch's variance"""
    image_covariance: float = 1.0
    """weight of the image branch's covariance"""
    text_variance: float = 25.0
    """weight of the text branch's variance"""
    text_covariance: float = 1.0
    """weight of the text branch's covariance"""


def objective(config: Config) -> mm.Objective:
    """Each branch is regularized with its own coefficients, as the paper does."""
    return mm.Objective(
        mm.Invariance(config.invariance),
        {
            "image": mm.VICReg(variance=config.image_variance, covariance=config.image_covariance),
            "text": mm.VICReg(variance=config.text_variance, covariance=config.text_covariance),
        },
    )


def main(config: Config) -> None:
    """Make the vocabulary of the training captions if there is none, then train."""
    if config.text.vocabulary:
        mm.make_vocabulary(config.train, config.text.members, config.text.vocabulary, cpu=config.cpu)
    mm.train(config, objective)


if __name__ == "__main__":
    main(mm.parse_command_line(Config))
