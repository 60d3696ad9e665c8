"""Two-pass accumulation is the gradient of the whole batch, whatever the micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_cases import relative
from processes import pool
from torch import Tensor, nn

from mmvicreg import Invariance, Objective, Terms, VarianceCovariance, distributed
from mmvicreg.accumulate import average_gradients, backward_in_two_passes
from mmvicreg.model import projector

BRANCHES = {"image": "image", "text": "text"}


class StochasticDepth(nn.Module):
    """Drops the layer for random rows."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) * (torch.rand(len(x), 1) > 0.3)


def towers(*, dropout: float) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    torch.manual_seed(0)
    encoders, heads = nn.ModuleDict(), nn.ModuleDict()
    for view in BRANCHES:
        block = StochasticDepth(nn.Sequential(nn.Linear(5, 5), nn.GELU()))
        encoders[view] = nn.Sequential(
            block if dropout else nn.Identity(), nn.Linear(5, 6), nn.Dropout(dropout)
        )
        heads[view] = projector(6, (16, 9))
    return encoders.double(), heads.double()


def batch(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {view: torch.randn(rows, 5, generator=generator, dtype=torch.float64) for view in BRANCHES}


def finish(heads: nn.ModuleDict, h: dict[str, Tensor]) -> Terms:
    objective = Objective(Invariance(), {view: VarianceCovariance() for view in BRANCHES})
    z = {view: heads[view](x) for view, x in h.items()}
    here = {view: torch.ones(len(x), dtype=torch.bool) for view, x in h.items()}
    return objective(z, here, branches=BRANCHES, seed=0)


def run(sizes: list[int], *, dropout: float, cached: bool, own: slice = slice(None)) -> tuple[Any, ...]:
    encoders, heads = towers(dropout=dropout)
    inputs = {view: x[own] for view, x in batch(24).items()}
    parts = [
        dict(zip(inputs, xs, strict=True))
        for xs in zip(*(x.split(sizes) for x in inputs.values()), strict=True)
    ]
    encode = [lambda part=part: {v: encoders[v](x) for v, x in part.items()} for part in parts]
    torch.manual_seed(2)
    if cached:
        terms = backward_in_two_passes(encode, lambda h: finish(heads, h), encoders=[encoders])
    else:
        every = [one() for one in encode]
        terms = finish(heads, {view: torch.cat([h[view] for h in every]) for view in BRANCHES})
        terms.total.backward()
    average_gradients([encoders, heads])
    drawn = torch.rand(3)
    gradients = [p.grad for module in (encoders, heads) for p in module.parameters()]
    return terms.total.detach(), gradients, drawn


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in gradients])


def assert_same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    assert relative(found[0], expected[0]) < 1e-6
    assert relative(flat(found[1]), flat(expected[1])) < 1e-6


@pytest.mark.parametrize("sizes", [[24], [8, 8, 8], [10, 10, 4], [1] * 24])
def test_micro_batches_equal_the_big_batch(sizes: list[int]) -> None:
    assert_same(run(sizes, dropout=0.0, cached=True), run([24], dropout=0.0, cached=False))


@pytest.mark.parametrize("sizes", [[8, 8, 8], [10, 10, 4]])
def test_dropout_and_stochastic_depth_are_replayed_and_the_random_numbers_go_on(sizes: list[int]) -> None:
    found, expected = (run(sizes, dropout=0.4, cached=cached) for cached in (True, False))
    assert_same(found, expected)
    assert torch.equal(found[2], expected[2])


def own_run(sizes: list[int]) -> tuple[Any, ...]:
    start = 12 * distributed.rank()
    return run(sizes, dropout=0.0, cached=True, own=slice(start, start + 12))


def test_two_processes_equal_the_big_batch() -> None:
    expected = run([24], dropout=0.0, cached=False)
    for found in pool(2).run(own_run, [5, 5, 2]):
        assert_same(found, expected)


def test_plain_accumulation_is_another_gradient() -> None:
    _, gradients, _ = run([24], dropout=0.0, cached=False)
    encoders, heads = towers(dropout=0.0)
    for rows in (slice(0, 12), slice(12, 24)):
        (finish(heads, {v: encoders[v](x[rows]) for v, x in batch(24).items()}).total / 2).backward()
    plain = [p.grad for module in (encoders, heads) for p in module.parameters()]
    assert relative(flat(plain), flat(gradients)) > 0.1
