"""Ours against other people's code, value and gradient: losses of open_clip, lightly and stable-pretraining.

stable-pretraining brings a hundred packages, so it is not among the test requirements:
``pip install stable-pretraining`` to run its part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmvicreg import (
    Alignment,
    BarlowTwins,
    Cosine,
    InfoNCE,
    Invariance,
    Prototypes,
    Sigmoid,
    SIGReg,
    VICRegCoefficients,
    VISReg,
    WhitenedMSE,
)
from mmvicreg.objectives.alignments.prototypes import sinkhorn
from mmvicreg.objectives.regularizers.directions import directions
from mmvicreg.testing.comparison import process_rows, relative_error

Loss = Callable[[Tensor, Tensor], Tensor]


def views() -> tuple[Tensor, Tensor]:
    (a,), (b,) = process_rows((40,), 12, views=2)
    return a.requires_grad_(), b.requires_grad_()


def assert_equal(ours: Tensor, theirs: Tensor, leaves: tuple[Tensor, ...], *, within: float = 1e-6) -> None:
    assert relative_error(ours.detach(), theirs.detach()) < within
    for found, expected in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        assert relative_error(found, expected) < within


def total(alignment: Alignment) -> Loss:
    alignment.double()
    return lambda a, b: alignment(a, b, seed=0).total


def test_info_nce_equals_open_clip() -> None:
    from open_clip.loss import ClipLoss

    a, b = views()
    normal = [torch.nn.functional.normalize(x, dim=1) for x in (a, b)]
    assert_equal(total(InfoNCE())(a, b), ClipLoss()(*normal, torch.tensor(1 / 0.07)), (a, b))


def test_sigmoid_equals_open_clip() -> None:
    from open_clip.loss import SigLipLoss

    a, b = views()
    normal = [torch.nn.functional.normalize(x, dim=1) for x in (a, b)]
    theirs = SigLipLoss()(*normal, torch.tensor(10.0), torch.tensor(-10.0))
    assert_equal(total(Sigmoid())(a, b), theirs, (a, b))


@pytest.fixture
def lightly() -> object:
    import lightly.loss

    return lightly.loss


def test_vicreg_equals_lightly(lightly: object) -> None:
    from lightly.loss import VICRegLoss

    a, b = views()
    weights = VICRegCoefficients.from_lightly()
    ours = total(Invariance(weights.invariance))(a, b)
    for x in (a, b):
        ours = ours + weights.regularizer(x, seed=0).total
    assert_equal(ours, VICRegLoss()(a, b), (a, b))


def test_barlow_twins_equals_lightly(lightly: object) -> None:
    from lightly.loss import BarlowTwinsLoss

    a, b = views()
    assert_equal(total(BarlowTwins(redundancy=5e-3))(a, b), BarlowTwinsLoss()(a, b), (a, b))


def test_whitened_mse_equals_lightly(lightly: object) -> None:
    from lightly.loss import WMSELoss

    a, b = views()
    theirs = WMSELoss(embedding_dim=12, eps=1e-3, w_size=40, track_running_stats=False)
    assert_equal(total(WhitenedMSE(size=40))(a, b), theirs(torch.cat([a, b])), (a, b))


def test_cosine_equals_lightly(lightly: object) -> None:
    from lightly.loss import NegativeCosineSimilarity

    a, b = views()
    assert_equal(total(Cosine())(a, b), 1 + NegativeCosineSimilarity()(a, b), (a, b))


def test_prototypes_equal_lightly(lightly: object) -> None:
    from lightly.loss import SwaVLoss
    from lightly.loss.swav_loss import sinkhorn as their_sinkhorn

    a, b = views()
    alignment = Prototypes(width=12, count=7)
    ours = total(alignment)(a, b)
    scores = [torch.nn.functional.normalize(x, dim=1) @ alignment.prototypes.detach().T for x in (a, b)]
    code = sinkhorn(scores[0].detach(), 40, sharpness=0.05, iterations=3)
    assert relative_error(code, their_sinkhorn(scores[0].detach())) < 1e-6
    assert_equal(ours, SwaVLoss()(scores, []), (a, b))


def test_sigreg_equals_lightly(lightly: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightly.loss.lejepa_loss import SIGReg as Theirs

    a, _ = views()
    drawn = directions(a, slices=64, seed=3).double().T
    monkeypatch.setattr(Theirs, "_generate_unit_vectors", lambda *_: drawn)
    assert_equal(SIGReg(slices=64).terms(a, seed=3)["sigreg"], Theirs(num_vectors=64).double()(a), (a,))


def test_visreg_scale_and_center_equal_lightly(lightly: object) -> None:
    from lightly.loss.visreg_loss import visreg_center_loss, visreg_scale_loss

    a, _ = views()
    regularizer = VISReg(slices=8)
    assert_equal(regularizer.terms(a, seed=0)["scale"], visreg_scale_loss(a), (a,), within=1e-5)
    assert_equal(regularizer.terms(a, seed=0)["center"], visreg_center_loss(a), (a,))


@pytest.fixture
def stable() -> object:
    # Its import warns of what its own dependencies deprecate.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("stable_pretraining.losses")


def test_vicreg_equals_stable_pretraining(stable: object) -> None:
    from stable_pretraining.losses import VICRegLoss

    a, b = views()
    weights = VICRegCoefficients.from_stable_pretraining(sim=20.0, std=15.0, cov=3.0)
    ours = total(Invariance(weights.invariance))(a, b)
    for x in (a, b):
        ours = ours + weights.regularizer(x, seed=0).total
    assert_equal(ours, VICRegLoss(sim_coeff=20.0, std_coeff=15.0, cov_coeff=3.0)(a, b), (a, b))


def test_cosine_equals_stable_pretrainings_byol(stable: object) -> None:
    from stable_pretraining.losses import BYOLLoss

    a, b = views()
    assert_equal(2 * total(Cosine())(a, b), BYOLLoss()(a, b), (a, b))


def test_info_nce_equals_stable_pretrainings_clip(stable: object) -> None:
    from stable_pretraining.losses import CLIPLoss

    a, b = views()
    assert_equal(total(InfoNCE())(a, b), CLIPLoss(temperature=0.07)(a, b), (a, b))
