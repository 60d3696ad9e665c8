"""The column-parallel last layer is nn.Linear, value and gradient, on any number of processes; its bytes counted."""

import copy

import pytest
import torch
import torch.distributed as dist
from objective_cases import relative
from processes import pool
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmvicreg import Branch, Invariance, Model, Objective, SIGReg, VarianceCovariance, distributed, projector
from mmvicreg.column_parallel import split_projectors

INPUT, HIDDEN, FEATURES = 6, 10, 24
COUNTS = {2: (5, 12), 4: (7, 0, 3, 9)}
NONE = {2: (0, 0), 4: (0, 0, 0, 0)}


def made() -> tuple[Model, Objective]:
    torch.manual_seed(3)
    branches = {
        name: Branch(nn.Linear(INPUT, INPUT), projector(INPUT, (HIDDEN, FEATURES))) for name in ("a", "b")
    }
    regularizers = {"a": VarianceCovariance(), "b": SIGReg(slices=8)}
    return Model(branches, {name: name for name in branches}).double(), Objective(Invariance(), regularizers)


def batch(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(rows, INPUT, dtype=torch.float64, generator=generator) for name in "ab"}


def total(model: Model, objective: Objective, inputs: dict[str, Tensor]) -> Tensor:
    present = {view: torch.ones(len(x), dtype=torch.bool) for view, x in inputs.items()}
    # b lacks every third row
    present["b"][::3] = False
    z = {view: each.z for view, each in model(inputs, present).items()}
    return objective(z, present, branches=model.views, seed=1).total


def whole(counts: tuple[int, ...]) -> tuple[float, dict[str, Tensor]]:
    model, objective = made()
    inputs = batch(sum(counts))
    # The same rows are missing as on the processes, whose rows start anew
    starts = [sum(counts[:rank]) for rank in range(len(counts))]
    present = torch.ones(sum(counts), dtype=torch.bool)
    for start, rows in zip(starts, counts, strict=True):
        present[start : start + rows : 3] = False
    z = {
        view: each.z
        for view, each in model(inputs, {"a": torch.ones_like(present), "b": present}).items()
    }
    presents = {"a": torch.ones_like(present), "b": present}
    loss = objective(z, presents, branches=model.views, seed=1).total
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def on_processes(counts: tuple[int, ...]) -> tuple[float, dict[str, Tensor]]:
    """Value and gradients of this process, averaged as DDP does, but for those of the split layer."""
    model, objective = made()
    split_projectors(model, torch.device("cpu"))
    rank = distributed.rank()
    start = sum(counts[:rank])
    inputs = {view: x[start : start + counts[rank]] for view, x in batch(sum(counts)).items()}
    loss = total(model, objective, inputs)
    loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        if isinstance(grad, DTensor):
            found[name] = grad.full_tensor()
        else:
            found[name] = distributed.all_reduce_sum(grad) / distributed.world_size()
    return loss.item(), found


@pytest.mark.parametrize("size", [2, 4])
def test_processes_equal_one_in_value_and_every_gradient(size: int) -> None:
    value, grads = whole(COUNTS[size])
    for found, theirs in pool(size).run(on_processes, COUNTS[size]):
        assert found == pytest.approx(value, rel=1e-9)
        assert theirs.keys() == grads.keys()
        for name, grad in grads.items():
            assert relative(theirs[name], grad) < 1e-9 or grad.abs().max() < 1e-12, name


@pytest.mark.parametrize("size", [2, 4])
def test_no_rows_anywhere_is_zero_and_does_not_hang(size: int) -> None:
    for value, grads in pool(size).run(on_processes, NONE[size]):
        assert value == 0
        assert not any(grad.any() for grad in grads.values())
