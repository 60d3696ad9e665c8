"""A step in chunks has the gradient of the whole batch, whatever the chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmvicreg import Invariance, Objective, SIGReg, VICReg, distributed
from mmvicreg.branches.model import Branch, Model, projector
from mmvicreg.testing.comparison import relative_error
from mmvicreg.testing.processes import pool
from mmvicreg.training.gradient_cache import average_gradients, cached_step, check_cacheable
from mmvicreg.training.step import Step, StepOutput

ROWS = 24
VIEWS = ("image", "text")


class StochasticDepth(nn.Module):
    """Drops the layer for random rows."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) * (torch.rand(len(x), 1) > 0.3)


def module(*, dropout: float) -> Step:
    torch.manual_seed(0)
    branches = {}
    for view in VIEWS:
        block = StochasticDepth(nn.Sequential(nn.Linear(5, 5), nn.GELU())) if dropout else nn.Identity()
        encoder = nn.Sequential(block, nn.Linear(5, 6), nn.Dropout(dropout))
        branches[view] = Branch(encoder, projector(6, (16, 9)))
    model = Model(branches, {view: view for view in VIEWS})
    goal = Objective(Invariance(25.0), {"image": VICReg(), "text": SIGReg()})
    return Step(model, goal, frozenset()).double().train()


def batch() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = {view: torch.randn(ROWS, 5, generator=generator, dtype=torch.float64) for view in VIEWS}
    present = {view: torch.rand(ROWS, generator=generator) > 0.2 for view in VIEWS}
    present["image"][:12] = False  # of two processes, one has none
    return x, present


def reseed(part: str) -> None:
    torch.manual_seed(sum(part.encode()) * 1009)


def flat(step: Step) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in step.parameters() if p.grad is not None])


def in_chunks(chunk: int, *, dropout: float, own: slice = slice(None)) -> tuple[Tensor, Tensor]:
    step = module(dropout=dropout)
    x, present = ({view: each[own] for view, each in some.items()} for some in batch())
    found = cached_step(
        step,
        x,
        present,
        seed=3,
        targets=None,
        size=chunk,
        reseed=reseed,
        backward=lambda total: total.backward(),
    )
    average_gradients(step.parameters())
    return found.terms.total.detach(), flat(step)


def whole(chunk: int, *, dropout: float) -> tuple[Tensor, Tensor]:
    """The same draws of dropout, chunk by chunk, in one graph."""
    step = module(dropout=dropout)
    x, present = batch()
    h = {}
    for view in VIEWS:
        rows = present[view].nonzero()[:, 0]
        values = []
        for number, part in enumerate(rows.split(chunk)):
            reseed(f"{view} {number}")
            values.append(step.model.branch(view).represent(x[view][part]))
        h[view] = torch.zeros(ROWS, 6, dtype=torch.float64).index_put((rows,), torch.cat(values))
    reseed("objective")
    found: StepOutput = step.from_representations(h, present, 3)
    found.terms.total.backward()
    return found.terms.total.detach(), flat(step)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert relative_error(found[0], expected[0]) < 1e-6
    assert relative_error(found[1], expected[1]) < 1e-6


@pytest.mark.parametrize("chunk", [24, 8, 5, 1])
def test_chunks_equal_the_whole_batch(chunk: int) -> None:
    assert_same(in_chunks(chunk, dropout=0.0), whole(24, dropout=0.0))


@pytest.mark.parametrize("chunk", [24, 7])
def test_dropout_and_stochastic_depth_are_replayed(chunk: int) -> None:
    assert_same(in_chunks(chunk, dropout=0.4), whole(chunk, dropout=0.4))


def own_rows() -> tuple[Tensor, Tensor]:
    start = 12 * distributed.rank()
    return in_chunks(5, dropout=0.0, own=slice(start, start + 12))


def test_two_processes_equal_the_whole_batch_one_of_them_without_a_row_of_a_view() -> None:
    expected = whole(24, dropout=0.0)
    for found in pool(2).run(own_rows):
        assert_same(found, expected)


def test_plain_accumulation_is_another_gradient() -> None:
    step = module(dropout=0.0)
    x, present = batch()
    for rows in (slice(0, 18), slice(18, 24)):
        output = step(
            {v: each[rows] for v, each in x.items()}, {v: each[rows] for v, each in present.items()}, 3
        )
        (output.terms.total / 2).backward()
    assert relative_error(flat(step), whole(24, dropout=0.0)[1]) > 0.1


def test_batch_normalization_in_a_trained_encoder_is_refused() -> None:
    step = module(dropout=0.0)
    encoder = step.model.branch_named("image").encoder
    assert isinstance(encoder, nn.Sequential)
    encoder.append(nn.BatchNorm1d(6))
    with pytest.raises(ValueError, match=r"image.*batch"):
        check_cacheable(step.model)
