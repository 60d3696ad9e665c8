"""Objective: which rows each part sees, what it is called, and what it equals in other people's code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_cases import relative, shards
from processes import pool
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from mmvicreg import Coefficients, InfoNCE, Invariance, Objective, Terms, VarianceCovariance, distributed

BRANCHES = {"image": "image", "text": "text"}


def vicreg() -> Objective:
    return Objective(Invariance(), {"image": VarianceCovariance(), "text": VarianceCovariance(variance=5.0)})


def batch(rows: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    image, text = (view[0].requires_grad_() for view in shards((rows,), 6, views=2))
    present = {"image": torch.arange(rows) % 5 != 0, "text": torch.arange(rows) % 3 != 1}
    return {"image": image, "text": text}, present


def test_a_part_sees_the_rows_that_are_present_and_a_pair_those_of_both() -> None:
    z, present = batch(20)
    terms = vicreg()(z, present, branches=BRANCHES, seed=0)
    both = present["image"] & present["text"]
    expected = VarianceCovariance()(z["image"][present["image"]], seed=0)
    assert relative(terms.parts["image/variance"], expected["variance"].detach()) < 1e-12
    assert relative(terms.parts["image/covariance"], expected["covariance"].detach()) < 1e-12
    invariance = mse_loss(z["image"][both], z["text"][both]).detach()
    assert relative(terms.parts["image-text/invariance"], invariance) < 1e-12
    weights = {"image-text/invariance": 25.0, "image/variance": 25.0, "image/covariance": 1.0}
    weights |= {"text/variance": 5.0, "text/covariance": 1.0}
    assert set(weights) == set(terms.parts)
    assert relative(terms.total.detach(), sum(weights[k] * v for k, v in terms.parts.items())) < 1e-12


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
def test_processes_equal_one_with_missing_modalities(counts: tuple[int, ...]) -> None:
    results = pool(len(counts)).run(own_batch, counts)
    z, present = batch(sum(counts))
    present["text"][counts[0] : counts[0] + counts[1]] = False
    terms = vicreg()(z, present, branches=BRANCHES, seed=0)
    terms.total.backward()
    for parts, _ in results:
        for name, value in terms.parts.items():
            assert relative(parts[name], value) < 1e-12, name
    for view, x in z.items():
        assert x.grad is not None
        assert relative(torch.cat([g[view] for _, g in results]) / len(counts), x.grad) < 1e-11


def test_two_views_of_one_branch_are_regularized_one_by_one() -> None:
    z, present = batch(20)
    objective = Objective(Invariance(), {"shared": VarianceCovariance()})
    parts = objective(z, present, branches={"image": "shared", "text": "shared"}, seed=0).parts
    assert {"image/variance", "text/variance"} <= set(parts)


def test_pairs_can_have_alignments_of_their_own() -> None:
    z, _ = batch(12)
    z["sound"] = z["text"].detach() + 1
    here = {view: torch.ones(12, dtype=torch.bool) for view in z}
    branches = {view: view for view in z}
    objective = Objective({("image", "text"): InfoNCE(), ("image", "sound"): Invariance(weight=3.0)}, {})
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
        Objective(Invariance(), {"imgae": VarianceCovariance()})(z, present, branches=BRANCHES, seed=0)
    with pytest.raises(KeyError, match=r"audio.*image.*text"):
        Objective(Invariance(), {}, pairs=[("image", "audio")])(z, present, branches=BRANCHES, seed=0)


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
        ("meta", Coefficients.from_meta()),
        ("meta", Coefficients.from_lightly()),
        ("meta", Coefficients.from_stable_pretraining()),
        ("solo_learn", Coefficients.from_solo_learn()),
        ("vicregl", Coefficients.from_vicregl()),
        ("eb_jepa", Coefficients.from_eb_jepa(width=6)),
    ],
)
def test_converted_coefficients_give_the_source_s_loss_and_gradient(
    style: str, coefficients: Coefficients
) -> None:
    z, _ = batch(20)
    here = {view: torch.ones(20, dtype=torch.bool) for view in z}
    regularizers = {view: coefficients.regularizer for view in z}
    terms: Terms = Objective(Invariance(weight=coefficients.invariance), regularizers)(
        z, here, branches=BRANCHES, seed=0
    )
    expected = published(style, z["image"], z["text"])
    assert relative(terms.total.detach(), expected.detach()) < 1e-12
    leaves = list(z.values())
    for found, right in zip(
        torch.autograd.grad(terms.total, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert relative(found, right) < 1e-12
