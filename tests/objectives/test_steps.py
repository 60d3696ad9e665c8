"""Optimizer steps with 3 and 4 views, each absent in turn: every alignment and regularizer, on 1, 2 and 3 processes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmvicreg import (
    Branch,
    InfoNCE,
    Invariance,
    MomentumQueue,
    Objective,
    SIGReg,
    SIGRegCoefficients,
    VICReg,
    WhitenedMSE,
)
from mmvicreg.branches.model import Model, projector
from mmvicreg.distributed import rank, world_size
from mmvicreg.testing.cases import ALIGNMENTS, REGULARIZERS
from mmvicreg.testing.comparison import relative_error
from mmvicreg.testing.processes import pool
from mmvicreg.testing.references import epps_pulley

ROWS, INPUTS = 12, 5
BOUNDS = {1: (0, 12), 2: (0, 5, 12), 3: (0, 5, 5, 12)}
"""First row of each process; one of three has none."""


class Training(nn.Module):
    """Branches and objective in one module, as a loop in plain PyTorch would wrap them in DDP."""

    def __init__(self, name: str, views: int, *, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        names = [f"v{number}" for number in range(views)]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        width = ALIGNMENTS[name].width if name in ALIGNMENTS else 12
        branches = {each: Branch(nn.Identity(), projector(INPUTS, (8, width))) for each in names}
        self.model = Model(branches, {each: each for each in names})
        make: Any = ALIGNMENTS[name].make if name in ALIGNMENTS else lambda: Invariance(1.0)
        alignment: Any = make() if shared else {pair: make() for pair in pairs}
        kept: Any = REGULARIZERS[name].make if name in REGULARIZERS else None
        one = kept() if kept and shared else None
        regularizers = {each: one or kept() for each in names} if kept else {}
        self.objective = Objective(alignment, regularizers)
        self.targeted = any(each.momentum is not None for each in self.objective.alignments(names).values())

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor], seed: int) -> Tensor:
        z = {view: embedding.z for view, embedding in self.model(inputs, present).items()}
        targets = {view: x.detach() * 0.9 + 0.1 for view, x in z.items()} if self.targeted else None
        return self.objective(z, present, seed=seed, targets=targets).total


def presence(views: int, step: int) -> dict[str, Tensor]:
    """Some rows missing; view number ``step - 1`` is absent from the whole batch, and at last all of them are."""
    generator = torch.Generator().manual_seed(step)
    found = {f"v{number}": torch.rand(ROWS, generator=generator) < 0.8 for number in range(views)}
    for number in range(views):
        if step in (number + 1, views + 1):
            found[f"v{number}"][:] = False
    return found


def train(name: str, views: int, shared: bool) -> tuple[list[float], list[Tensor]]:
    """Losses, and the parameters after a step without absent views, one for each absent view, and one without rows."""
    torch.set_default_dtype(torch.float64)
    try:
        training = Training(name, views, shared=shared)
    finally:
        torch.set_default_dtype(torch.float32)
    own = slice(*BOUNDS[world_size()][rank() : rank() + 2])
    step_of: Any = DistributedDataParallel(training) if world_size() > 1 else training
    optimizer = torch.optim.AdamW(training.parameters(), lr=0.05, weight_decay=0.1)
    losses = []
    for step in range(views + 2):
        generator = torch.Generator().manual_seed(100 + step)
        inputs = {
            f"v{number}": torch.randn(ROWS, INPUTS, generator=generator, dtype=torch.float64)[own]
            for number in range(views)
        }
        here = {view: rows[own] for view, rows in presence(views, step).items()}
        optimizer.zero_grad(set_to_none=True)
        loss = step_of(inputs, here, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach() for p in training.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("views", [3, 4])
@pytest.mark.parametrize("name", [*ALIGNMENTS, *REGULARIZERS])
def test_steps_with_absent_views_are_the_same_on_any_number_of_processes(
    name: str, views: int, shared: bool
) -> None:
    losses, parameters = train(name, views, shared)
    assert all(math.isfinite(loss) for loss in losses)
    for size in (2, 3):
        for found, weights in pool(size).run(train, name, views, shared):
            assert found == pytest.approx(losses, rel=1e-7, abs=1e-10)
            for ours, expected in zip(weights, parameters, strict=True):
                assert relative_error(ours, expected) < 1e-6


def test_a_shared_queue_never_holds_the_positives_of_its_own_step() -> None:
    torch.manual_seed(0)
    z = dict.fromkeys("abc", torch.nn.functional.normalize(torch.randn(1, 4), dim=1))
    queue = MomentumQueue(width=4, size=1, temperature=0.01)
    queue.queue_a, queue.queue_b = (
        -z["a"].clone(),
        -z["a"].clone(),
    )  # negatives opposite to every row: loss of zero
    objective = Objective(queue)
    assert float(objective(z, targets=z).total) < 1e-6
    assert torch.equal(queue.queue_a, z["a"])  # kept for the next step


@pytest.mark.parametrize("name", [*ALIGNMENTS, *REGULARIZERS])
def test_a_second_derivative_is_right_or_an_error(name: str) -> None:
    """Closed forms raise, also beside a loss that has one; the others give that of finite differences."""
    torch.manual_seed(5)
    known: Any = ALIGNMENTS.get(name) or REGULARIZERS[name]
    part = known.make().double()
    generator = torch.Generator().manual_seed(1)
    width = getattr(known, "width", 12)
    z, b, along = (torch.randn(9, width, generator=generator, dtype=torch.float64) for _ in range(3))

    def slope(x: Tensor, *, create: bool) -> Tensor:
        kept = copy.deepcopy(part)
        if name in ALIGNMENTS:
            targets = None if kept.momentum is None else (b * 0.5, b * 0.7)
            total = kept(x, b, seed=3, targets=targets).total
        else:
            total = kept(x, seed=3).total
        return torch.autograd.grad(total + x.pow(4).sum(), x, create_graph=create)[0]

    leaf = z.clone().requires_grad_()
    first = slope(leaf, create=True)
    if name in REGULARIZERS or "barlow" in name:
        with pytest.raises(RuntimeError, match=r"second derivative.*not available"):
            torch.autograd.grad((first * along).sum(), leaf)
        return
    (found,) = torch.autograd.grad((first * along).sum(), leaf)
    step = 1e-5
    after, before = (slope((z + sign * step * along).requires_grad_(), create=False) for sign in (1, -1))
    assert relative_error(found, (after - before) / (2 * step)) < 1e-4


def test_pairs_whose_terms_would_share_a_name_are_refused() -> None:
    z = {view: torch.randn(4, 3) for view in ("a-b", "c", "a", "b-c")}
    with pytest.raises(ValueError, match=r"\('a-b', 'c'\).*\('a', 'b-c'\).*rename a view"):
        Objective(Invariance(), pairs=[("a-b", "c"), ("a", "b-c")])
    with pytest.raises(ValueError, match=r"rename a view"):
        Objective(Invariance())(z)


def test_whitening_of_a_few_rows_far_apart_is_finite() -> None:
    a, b = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0)) * 50
    exact = WhitenedMSE(size=8)(a.double(), b.double(), seed=0).total
    assert relative_error(WhitenedMSE(size=8)(a, b, seed=0).total, exact) < 1e-5


def test_identities_take_rows_of_the_same_item_out_of_the_negatives() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    captions = torch.tensor([7, 3, 7, 1, 3, 7])
    alignment = InfoNCE().double()
    total = Objective(alignment)({"image": a, "text": b}, identities={"text": captions}).total
    normal = [torch.nn.functional.normalize(x, dim=1) for x in (a, b)]
    logits = alignment.log_scale.exp() * normal[0] @ normal[1].T
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        negatives = [j for j in range(6) if captions[j] != captions[i]]
        for row in (logits[i], logits[:, i]):
            expected = expected - (row[i] - torch.logsumexp(row[[i, *negatives]], 0)) / 12
    assert relative_error(total.detach(), expected.detach()) < 1e-12
    leaves = (a, b, alignment.log_scale)
    for found, right in zip(
        torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert relative_error(found, right) < 1e-12


def test_terms_and_objectives_need_no_more_than_tensors() -> None:
    z = {"image": torch.randn(8, 4, requires_grad=True), "text": torch.randn(8, 4)}
    terms = Objective(Invariance(25.0), {"image": VICReg(25.0, 1.0)})(z)
    single = Invariance(25.0)(z["image"], z["text"]).total + VICReg(25.0, 1.0)(z["image"]).total
    assert relative_error(terms.total.detach(), single.detach()) < 1e-6
    terms.total.backward()
    sliced = SIGReg(slices=4)
    first, second = (sliced(z["image"]).total for _ in range(2))
    assert first != second  # other directions in each call


def test_converted_sigreg_weights_give_the_loss_of_their_source() -> None:
    """LeJEPA: statistic times N; LeVLJEPA: times the rows of one process; eb_jepa: no factor."""
    z = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    statistic = epps_pulley(z, 3, slices=10, knots=17, times_rows=False)["sigreg"]
    for coefficients, expected in (
        (SIGRegCoefficients.from_lejepa(0.05), 0.05 * 24 * statistic),
        (SIGRegCoefficients.from_levljepa(0.02, processes=4), 0.02 * (24 / 4) * statistic),
        (SIGRegCoefficients.from_eb_jepa(10.0), 10.0 * statistic),
    ):
        total = coefficients.regularizer(slices=10)(z, seed=3).total
        assert relative_error(total.detach(), expected.detach()) < 1e-11
        (found,), (right,) = (torch.autograd.grad(x, z, retain_graph=True) for x in (total, expected))
        assert relative_error(found, right) < 1e-10
