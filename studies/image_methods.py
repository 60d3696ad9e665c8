"""The rows of VICReg's Table 1 (arXiv 2105.04906), and VISReg and SIGReg, as image-only methods at our scale.

Weights, temperatures and stop-gradients are the papers'; widths, queues and momenta are scaled to a thousand pictures
and 84 steps. ``SimCLR`` takes its negatives from the other view alone (InfoNCE), not from its own view too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from image_data import STANDARD, STRONG, TRAIN, WEAK
from image_pretexts import (
    Context,
    MemoryBank,
    PieceEncoder,
    embed_patches,
    jigsaw,
    jigsaw_pieces,
    patches,
    represent_colours,
    represent_patches,
    split_colours,
)
from image_protocol import EMBEDDING, REPRESENTATION, Method, branch, encoder, two_views
from torch import nn

import mmvicreg as mm

NARROW = 64
"""embedding width of contrastive and clustering methods, and of SIGReg (the papers: 64 to 256)"""
QUEUE, MOMENTUM = 512, 0.95


def one_branch(*widths: int) -> Callable[[], dict[str, mm.Branch]]:
    """One branch, "image", for both views."""
    return lambda: {"image": branch(widths)}


def regularized(
    alignment: Callable[[], mm.Alignment], regularizer: Callable[[], mm.Regularizer]
) -> Callable[[], mm.Objective]:
    """An alignment of the views and a regularizer of their branch."""
    return lambda: mm.Objective(alignment(), {"image": regularizer()})


def info_nce() -> mm.Objective:
    """SimCLR's temperature, 0.1."""
    return mm.Objective(mm.InfoNCE(temperature=0.1, learn_scale=False))


def queue(temperature: float) -> Callable[[], mm.Objective]:
    """Negatives from a queue of momentum embeddings."""
    return lambda: mm.Objective(
        mm.MomentumQueue(width=NARROW, size=QUEUE, temperature=temperature, momentum=MOMENTUM)
    )


def prediction(
    momentum: float | None = None, *, hidden: Sequence[int] = (64,), shared: bool = True
) -> mm.Prediction:
    """SimSiam's alignment, or BYOL's with a momentum; 1 - cosine. ``shared``: one predictor for both views."""
    made = mm.Prediction(
        0.5, widths=(EMBEDDING, EMBEDDING), hidden=hidden, distance="cosine", momentum=momentum
    )
    if shared:
        made.from_b = made.from_a
    return made


def vicreg() -> mm.Objective:
    """The paper's weights: 25, 25, 1."""
    return mm.Objective(mm.Invariance(25.0), {"image": mm.VICReg()})


def _jigsaw_branches() -> dict[str, mm.Branch]:
    shared = encoder()
    return {
        "picture": mm.Branch(shared, nn.Linear(REPRESENTATION, NARROW)),
        "jigsaw": mm.Branch(PieceEncoder(shared), nn.Linear(jigsaw_pieces() * REPRESENTATION, NARROW)),
    }


def _colour_branches() -> dict[str, mm.Branch]:
    half = REPRESENTATION // 2
    return {
        name: mm.Branch(encoder(channels, (12, 24, half)), mm.projector(half, (EMBEDDING, NARROW)))
        for name, channels in (("luminance", 1), ("chrominance", 2))
    }


WIDE = one_branch(EMBEDDING, EMBEDDING)
CONTRASTIVE = one_branch(EMBEDDING, NARROW)
METHODS: Mapping[str, Method] = {
    "MoCo v1": Method(one_branch(NARROW), queue(0.07), inputs=two_views(WEAK)),
    "PIRL": Method(
        _jigsaw_branches,
        lambda: mm.Objective(MemoryBank(width=NARROW, pictures=TRAIN)),
        views={"picture": "picture", "jigsaw": "jigsaw"},
        inputs=jigsaw,
    ),
    "CPC v2": Method(
        lambda: {"patch": mm.Branch(encoder(), Context(REPRESENTATION, NARROW))},
        info_nce,
        views={"target": "patch", "predicted": "patch"},
        inputs=patches,
        embed=embed_patches,
        represent=represent_patches,
    ),
    "CMC": Method(
        _colour_branches,
        lambda: mm.Objective(mm.InfoNCE(temperature=0.07, learn_scale=False)),
        views={"luminance": "luminance", "chrominance": "chrominance"},
        inputs=lambda x: split_colours(STANDARD(x)),
        represent=represent_colours,
    ),
    "SimCLR": Method(CONTRASTIVE, info_nce),
    "MoCo v2": Method(CONTRASTIVE, queue(0.2)),
    "SimSiam": Method(WIDE, lambda: mm.Objective(prediction())),
    "SwAV": Method(CONTRASTIVE, lambda: mm.Objective(mm.Prototypes(width=NARROW, count=64))),
    "InfoMin": Method(CONTRASTIVE, queue(0.15), inputs=two_views(STRONG)),
    "Barlow Twins": Method(WIDE, lambda: mm.Objective(mm.BarlowTwins())),
    "BYOL": Method(WIDE, lambda: mm.Objective(prediction(MOMENTUM))),
    "VICReg": Method(WIDE, vicreg),
    "VISReg": Method(
        WIDE, regularized(lambda: mm.Invariance(0.4), lambda: mm.VISReg(0.6, 0.6, 0.6, slices=256))
    ),
    "SIGReg": Method(
        CONTRASTIVE, regularized(lambda: mm.Invariance(1.0), lambda: mm.SIGReg(0.05, slices=256))
    ),
}
PAPER = {
    "MoCo v1": 60.6,
    "PIRL": 63.6,
    "CPC v2": 63.8,
    "CMC": 66.2,
    "SimCLR": 69.3,
    "MoCo v2": 71.1,
    "SimSiam": 71.3,
    "SwAV": 71.8,
    "InfoMin": 73.0,
    "Barlow Twins": 73.2,
    "BYOL": 74.3,
    "VICReg": 73.2,
}
"""Linear top-1 accuracy on ImageNet, ResNet-50, percent: VICReg's Table 1."""
