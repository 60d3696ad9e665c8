"""The column-parallel last layer is nn.Linear, value and gradient, on any number of processes; its bytes counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from gloo_training import assert_close, plain, train, unplug
from interruption import Interrupted, interrupt_at
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import mmvicreg as mm
from mmvicreg import Branch, Invariance, Model, Objective, SIGReg, VICReg, distributed, projector
from mmvicreg.branches.column_parallel import split_projectors
from mmvicreg.testing.comparison import relative_error
from mmvicreg.testing.processes import pool

INPUT, HIDDEN, FEATURES = 6, 10, 24
COUNTS = {2: (5, 12), 4: (7, 0, 3, 9)}
NONE = {2: (0, 0), 4: (0, 0, 0, 0)}


def made() -> tuple[Model, Objective]:
    torch.manual_seed(3)
    branches = {
        name: Branch(nn.Linear(INPUT, INPUT), projector(INPUT, (HIDDEN, FEATURES))) for name in ("a", "b")
    }
    regularizers = {"a": VICReg(), "b": SIGReg(slices=8)}
    return Model(branches, {name: name for name in branches}).double(), Objective(Invariance(), regularizers)


def batch(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(rows, INPUT, dtype=torch.float64, generator=generator) for name in "ab"}


def total(model: Model, objective: Objective, inputs: dict[str, Tensor], counts: tuple[int, ...]) -> Tensor:
    """Of an objective in which every third row of b is missing, counted anew on each process."""
    present = {"a": torch.ones(sum(counts), dtype=torch.bool)}
    present["b"] = torch.cat([torch.arange(rows) % 3 > 0 for rows in counts])
    z = {view: each.z for view, each in model(inputs, present).items()}
    return objective(z, present, branches=model.views, seed=1).total


def whole(counts: tuple[int, ...]) -> tuple[float, dict[str, Tensor]]:
    model, objective = made()
    loss = total(model, objective, batch(sum(counts)), counts)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def on_processes(counts: tuple[int, ...]) -> tuple[float, dict[str, Tensor]]:
    """Value and gradients of this process, averaged as DDP does, but for those of the split layer."""
    model, objective = made()
    split_projectors(model, torch.device("cpu"))
    rank = distributed.rank()
    start = sum(counts[:rank])
    inputs = {view: x[start : start + counts[rank]] for view, x in batch(sum(counts)).items()}
    loss = total(model, objective, inputs, (counts[rank],))
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_processes_equal_one_in_value_and_every_gradient(size: int) -> None:
    value, grads = whole(COUNTS[size])
    for found, theirs in pool(size).run(on_processes, COUNTS[size]):
        assert found == pytest.approx(value, rel=1e-9)
        assert theirs.keys() == grads.keys()
        for name, grad in grads.items():
            assert relative_error(theirs[name], grad) < 1e-9 or grad.abs().max() < 1e-12, name


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.slow
def test_no_rows_anywhere_is_zero_and_does_not_hang(size: int) -> None:
    for value, grads in pool(size).run(on_processes, NONE[size]):
        assert value == 0
        assert not any(grad.any() for grad in grads.values())


@pytest.mark.slow
def test_a_run_divided_into_columns_is_the_run_of_one_process(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "data")
    optimizer = mm.OptimizerConfig(max_gradient_norm=0.5)
    one = plain(shards, tmp_path / "one", optimizer=optimizer)
    mm.train(one, toy.objective)
    divided = replace(one, parallel="column_parallel")
    assert pool(2).run(train, replace(divided, out=str(tmp_path / "two"))) == [12, 12]
    assert_close(tmp_path / "one", tmp_path / "two")
    # stopped, and continued by one process
    cut = replace(divided, out=str(tmp_path / "cut"))
    assert pool(2).run(train, cut, 7) == [-1, -1]
    mm.train(cut, toy.objective)
    assert_close(tmp_path / "one", tmp_path / "cut")
    # and the other way round
    back = replace(divided, out=str(tmp_path / "back"))
    with pytest.raises(Interrupted):
        mm.train(back, lambda config: interrupt_at(toy.objective(config), 7, unplug))
    assert pool(2).run(train, back) == [12, 12]
    assert_close(tmp_path / "one", tmp_path / "back")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": mm.OptimizerConfig(name="lars", max_gradient_norm=0.5)},
        {"ema_decay": 0.9, "gradient_cache_size": 3, "guard": mm.GuardConfig(compare_every=2)},
    ],
)
def test_lars_averages_chunks_and_guards_take_columns(tmp_path: Path, change: dict[str, Any]) -> None:
    shards = toy.write_shards(tmp_path / "data")
    layer = [toy.Numbers(f"{name}.npy", dropout=0.0, norm="layer") for name in "ab"]
    probe = mm.ValidationConfig(data=shards, samples=70, every=6)
    one = plain(shards, tmp_path / "one", a=layer[0], b=layer[1], validation=probe, **change)
    mm.train(one, toy.objective)
    pool(2).run(train, replace(one, out=str(tmp_path / "two"), parallel="column_parallel"))
    assert_close(tmp_path / "one", tmp_path / "two")
    if "ema_decay" in change:
        average = [
            load_file(tmp_path / name / "checkpoints/step-00000012/average.safetensors")
            for name in ("one", "two")
        ]
        for name, value in average[0].items():
            torch.testing.assert_close(average[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def odd_width() -> str:
    model = Model({"a": Branch(nn.Identity(), projector(4, (5,)))}, {"a": "a"})
    try:
        split_projectors(model, torch.device("cpu"))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_width_that_processes_cannot_share_is_refused() -> None:
    for message in pool(2).run(odd_width):
        assert "5 features, which 2 processes cannot share equally; choose 6" in message
