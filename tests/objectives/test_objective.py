"""Objective: which rows each part sees, what it is called, and what it equals in other people's code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from mmvicreg import LossTerms, Objective, VICRegCoefficients, distributed
from mmvicreg.objectives.alignments import (
    Alignment,
    Cosine,
    InfoNCE,
    Invariance,
    MomentumQueue,
    Prediction,
    Prototypes,
    Sigmoid,
    SumAlignment,
    WhitenedMSE,
)
from mmvicreg.objectives.regularizers import HSIC, SIGReg, SlicedWasserstein, VICReg, VISReg
from mmvicreg.testing.comparison import process_rows, relative_error
from mmvicreg.testing.processes import pool

BRANCHES = {"image": "image", "text": "text"}


def vicreg() -> Objective:
    return Objective(Invariance(), {"image": VICReg(), "text": VICReg(variance=5.0)})


def batch(rows: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    image, text = (view[0].requires_grad_() for view in process_rows((rows,), 6, views=2))
    present = {"image": torch.arange(rows) % 5 != 0, "text": torch.arange(rows) % 3 != 1}
    return {"image": image, "text": text}, present


def test_a_part_sees_the_rows_that_are_present_and_a_pair_those_of_both() -> None:
    z, present = batch(20)
    terms = vicreg()(z, present, branches=BRANCHES, seed=0)
    both = present["image"] & present["text"]
    expected = VICReg().terms(z["image"][present["image"]], seed=0)
    assert relative_error(terms.parts["image/variance"], expected["variance"].detach()) < 1e-12
    assert relative_error(terms.parts["image/covariance"], expected["covariance"].detach()) < 1e-12
    invariance = mse_loss(z["image"][both], z["text"][both]).detach()
    assert relative_error(terms.parts["image-text/invariance"], invariance) < 1e-12
    weights = {"image-text/invariance": 25.0, "image/variance": 25.0, "image/covariance": 1.0}
    weights |= {"text/variance": 5.0, "text/covariance": 1.0}
    assert set(weights) == set(terms.parts)
    assert relative_error(terms.total.detach(), sum(weights[k] * v for k, v in terms.parts.items())) < 1e-12


def own_batch(counts: tuple[int, ...]) -> tuple[Any, Any]:
    z, present = batch(sum(counts))
    start = sum(counts[: distributed.rank()])
    own = slice(start, start + counts[distributed.rank()])
    leaves = {view: x.detach()[own].clone().requires_grad_() for view, x in z.items()}
    if distributed.rank() == 1:
        present["text"][own] = False
    terms = vicreg()(leaves, {v: p[own] for v, p in present.items()}, branches=BRANCHES, seed=0)
    terms.total.backward()
    return terms.parts, {view: x.grad for view, x in leaves.items()}


@pytest.mark.parametrize("counts", [(10, 10), (7, 5, 5, 3)])
@pytest.mark.slow
def test_processes_equal_one_with_missing_modalities(counts: tuple[int, ...]) -> None:
    results = pool(len(counts)).run(own_batch, counts)
    z, present = batch(sum(counts))
    present["text"][counts[0] : counts[0] + counts[1]] = False
    terms = vicreg()(z, present, branches=BRANCHES, seed=0)
    terms.total.backward()
    for parts, _ in results:
        for name, value in terms.parts.items():
            assert relative_error(parts[name], value) < 1e-12, name
    for view, x in z.items():
        assert x.grad is not None
        assert relative_error(torch.cat([g[view] for _, g in results]) / len(counts), x.grad) < 1e-11


def test_two_views_of_one_branch_are_regularized_one_by_one() -> None:
    z, present = batch(20)
    objective = Objective(Invariance(), {"shared": VICReg()})
    parts = objective(z, present, branches={"image": "shared", "text": "shared"}, seed=0).parts
    assert {"image/variance", "text/variance"} <= set(parts)


def test_pairs_can_have_alignments_of_their_own() -> None:
    z, _ = batch(12)
    z["sound"] = z["text"].detach() + 1
    here = {view: torch.ones(12, dtype=torch.bool) for view in z}
    branches = {view: view for view in z}
    objective = Objective({("image", "text"): InfoNCE(), ("image", "sound"): Invariance(3.0)}, {})
    assert set(objective(z, here, branches=branches, seed=0).parts) == {
        "image-text/infonce",
        "image-sound/invariance",
    }
    pairs = [("image", "sound")]
    assert set(Objective(Invariance(), {}, pairs=pairs)(z, here, branches=branches, seed=0).parts) == {
        "image-sound/invariance"
    }


def test_a_wrong_name_is_an_error_that_says_the_right_ones() -> None:
    z, present = batch(4)
    with pytest.raises(KeyError, match=r"imgae.*image.*text"):
        Objective(Invariance(), {"imgae": VICReg()})(z, present, branches=BRANCHES, seed=0)
    with pytest.raises(KeyError, match=r"audio.*image.*text"):
        Objective(Invariance(), {}, pairs=[("image", "audio")])(z, present, branches=BRANCHES, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SIGReg(knots=1), r"SIGReg.knots is 1; expected at least 2"),
        (lambda: SIGReg(slices=0), r"SIGReg.slices is 0; expected a number above 0"),
        (lambda: SlicedWasserstein(chunk=0), r"SlicedWasserstein.chunk is 0"),
        (lambda: VISReg(epsilon=0.0), r"VISReg.epsilon is 0.0"),
        (lambda: HSIC(bandwidth=0.0), r"HSIC.bandwidth is 0.0"),
        (
            lambda: VICReg(form="gramm"),  # type: ignore[arg-type]
            r"form is 'gramm'; expected one of \('auto', 'gram'",
        ),
        (lambda: VICReg(epsilon=-1.0), r"epsilon is -1.0"),
        (lambda: InfoNCE(temperature=0.001, learn_scale=False), r"temperature is 0.001; expected 0.01 to 1"),
        (
            lambda: Prediction(widths=(4, 4), distance="l1"),  # type: ignore[arg-type]
            r"distance is 'l1'; expected one of \('mse', 'cosine'\)",
        ),
        (lambda: Prediction(widths=(4, 4), momentum=2.0), r"momentum is 2.0"),
        (lambda: MomentumQueue(width=4, size=0), r"size is 0; expected at least 1 key"),
        (lambda: Prototypes(width=4, count=1), r"count is 1; expected at least 2"),
        (lambda: WhitenedMSE(size=1), r"size is 1; expected at least 2"),
        (lambda: Sigmoid(scale=0.0), r"scale is 0.0; expected above 0"),
        (SumAlignment, r"no parts"),
        (lambda: Objective(Invariance(math.nan), {}), r"Invariance's invariance is nan"),
        (lambda: Objective(Cosine(), {"image": VISReg(shape=math.inf)}), r"VISReg's shape is inf"),
        (lambda: Objective(Cosine(), {}, pairs=[("image", "image")]), r"'image' with itself"),
    ],
)
def test_settings_that_make_no_objective_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("alignment", "shapes", "message"),
    [
        (Cosine(), ((4, 8), (4, 1), (4,)), r"Cosine of image-text expects widths equal ones, found \(8, 1\)"),
        (Prediction(widths=(8, 5)), ((4, 5), (4, 8), (4,)), r"expects widths \(8, 5\), found \(5, 8\)"),
        (
            SumAlignment(Prediction(widths=(8, 5)), Cosine()),
            ((4, 8), (4, 5), (4,)),
            r"SumAlignment of image-text",
        ),
        (Prototypes(width=8), ((4, 6), (4, 6), (4,)), r"Prototypes of image-text expects widths \(8, 8\)"),
        (Cosine(), ((4, 8), (1, 8), (4,)), r"B of the views: \{'image': \(4,\), 'text': \(1,\)\}"),
        (Cosine(), ((4, 8), (4, 8), (3,)), r"z \(4, 8\), present \(3,\)"),
        (Cosine(), ((8,), (8,), (8,)), r"expected \(B, D\) and \(B,\) bool"),
    ],
)
def test_shapes_that_would_be_broadcast_are_refused(
    alignment: Alignment, shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    z = {"image": torch.zeros(shapes[0]), "text": torch.zeros(shapes[1])}
    present = dict.fromkeys(z, torch.ones(shapes[2], dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        Objective(alignment, {})(z, present, branches=BRANCHES, seed=0)


def test_no_pairs_align_nothing() -> None:
    z, present = batch(4)
    for objective in (Objective(Invariance(), {}, pairs=[]), Objective({}, {})):
        assert objective(z, present, branches=BRANCHES, seed=0).parts == {}


def test_whitening_what_is_not_finite_gives_nan_and_no_exception() -> None:
    z = torch.ones(8, 3).index_fill_(0, torch.tensor([2]), torch.nan)
    assert WhitenedMSE(size=4)(z, z).total.isnan()


def published(style: str, a: Tensor, b: Tensor) -> Tensor:
    """VICReg as each source computes it, with its default coefficients."""
    n, d = a.shape
    std = [torch.sqrt(x.var(0) + 1e-4) for x in (a, b)]
    hinge = [relu(1 - s).mean() for s in std]
    covariances = [(x - x.mean(0)).T @ (x - x.mean(0)) / (n - 1) for x in (a, b)]
    off = [(c.square().sum() - c.diagonal().square().sum()) for c in covariances]
    similarity = mse_loss(a, b)
    return {
        "meta": 25 * similarity + 25 * (hinge[0] / 2 + hinge[1] / 2) + (off[0] / d + off[1] / d),
        "solo_learn": 25 * similarity + 25 * (hinge[0] + hinge[1]) + (off[0] / d + off[1] / d),
        "vicregl": 25 * similarity + 25 * sum(hinge) / 2 + sum(off) / d / 2,
        "eb_jepa": similarity + sum(hinge) + 80 * sum(off) / (d * (d - 1)),
    }[style]


@pytest.mark.parametrize(
    ("style", "coefficients"),
    [
        ("meta", VICRegCoefficients.from_meta()),
        ("meta", VICRegCoefficients.from_lightly()),
        ("meta", VICRegCoefficients.from_stable_pretraining()),
        ("solo_learn", VICRegCoefficients.from_solo_learn()),
        ("vicregl", VICRegCoefficients.from_vicregl()),
        ("eb_jepa", VICRegCoefficients.from_eb_jepa(width=6)),
    ],
)
def test_converted_coefficients_give_the_source_s_loss_and_gradient(
    style: str, coefficients: VICRegCoefficients
) -> None:
    z, _ = batch(20)
    here = {view: torch.ones(20, dtype=torch.bool) for view in z}
    regularizers = {view: coefficients.regularizer for view in z}
    terms: LossTerms = Objective(Invariance(coefficients.invariance), regularizers)(
        z, here, branches=BRANCHES, seed=0
    )
    expected = published(style, z["image"], z["text"])
    assert relative_error(terms.total.detach(), expected.detach()) < 1e-12
    leaves = list(z.values())
    for found, right in zip(
        torch.autograd.grad(terms.total, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert relative_error(found, right) < 1e-12
