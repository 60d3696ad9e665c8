"""Compiled encoders give the losses of eager ones, and a run with them continues bit for bit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import interruption
import pytest
import torch
import toy
from gloo_training import plain, train

import mmvicreg as mm
from mmvicreg.branches.compile import compile_encoders
from mmvicreg.branches.model import Model
from mmvicreg.runs.run import read_log
from mmvicreg.testing.processes import pool


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """b is missing from every seventh sample, so encoders meet many numbers of rows."""
    return toy.write_shards(tmp_path_factory.mktemp("data"))


def assert_same_losses(a: Path, b: Path, *, tolerance: float) -> None:
    """Every term of every step."""
    one, other = read_log(a), read_log(b)
    assert len(one) == len(other) > 4
    for left, right in zip(one, other, strict=True):
        assert right["terms"] == pytest.approx(left["terms"], rel=tolerance, abs=tolerance)


def check(config: Any, objective: Any, *, tolerance: float) -> None:
    """Eager, compiled, and compiled with an interruption."""
    out = Path(config.out)
    mm.train(replace(config, out=str(out / "eager")), objective)
    compiled = replace(config, out=str(out / "compiled"), compile=True)
    mm.train(compiled, objective)
    assert_same_losses(out / "eager", out / "compiled", tolerance=tolerance)
    cut = replace(compiled, out=str(out / "cut"))
    with pytest.raises(interruption.Interrupted):
        mm.train(
            cut, lambda config: interruption.interrupt_at(objective(config), 7, interruption.pull_the_plug)
        )
    mm.train(cut, objective)
    interruption.assert_same(out / "compiled", out / "cut")


@dataclass(frozen=True)
class Alone(mm.TrainConfig):
    """One branch: half of what there is to compile."""

    b: toy.Numbers = toy.Numbers("b.npy", dropout=0.0)


@pytest.mark.nightly
def test_compiled_encoders_train_as_eager_ones_and_continue_bit_for_bit(shards: str, tmp_path: Path) -> None:
    config = Alone(
        train=shards,
        out=str(tmp_path),
        batch_size=16,
        epochs=2.0,
        cpu=True,
        log_every=1,
        checkpoint_every=5,
        guard=mm.GuardConfig(diagnose_every=5),
    )
    goal = mm.VICReg()
    check(config, lambda config: mm.Objective(mm.Invariance(), {"b": goal}), tolerance=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ({"precision": "bf16"}, 2e-2),
        ({"activation_checkpointing": True}, 1e-4),
        ({"gradient_cache_size": 5}, 1e-4),
        ({"optimizer": mm.OptimizerConfig(unfreeze_at={"a": 5})}, 1e-4),
        ({"guard": mm.GuardConfig(max_skipped_steps=1, diagnose_every=1)}, 1e-4),
    ],
)
def test_compiling_goes_with_the_other_options(
    shards: str, tmp_path: Path, change: dict[str, Any], tolerance: float
) -> None:
    a, b = (toy.Numbers(f"{name}.npy", dropout=0.0, norm="layer") for name in "ab")
    check(plain(shards, tmp_path, a=a, b=b, **change), toy.objective, tolerance=tolerance)


@pytest.mark.nightly
@pytest.mark.parametrize(("parallel", "norm"), [("ddp", "batch"), ("fsdp", "layer")])
def test_two_processes_compile(shards: str, tmp_path: Path, parallel: Any, norm: Any) -> None:
    a, b = (toy.Numbers(f"{name}.npy", dropout=0.0, norm=norm) for name in "ab")
    mm.train(plain(shards, tmp_path / "eager", a=a, b=b), toy.objective)
    config = plain(shards, tmp_path / "compiled", a=a, b=b, compile=True, parallel=parallel)
    pool(2).run(train, config)
    assert_same_losses(tmp_path / "eager", tmp_path / "compiled", tolerance=1e-4)
    cut = replace(config, out=str(tmp_path / "cut"))
    assert pool(2).run(train, cut, 7) == [-1, -1]
    pool(2).run(train, cut)
    interruption.assert_same(tmp_path / "compiled", tmp_path / "cut")


@pytest.mark.nightly
def test_dropout_falls_the_same_without_and_with_gradient() -> None:
    """What ``chunk`` needs of a compiled encoder: it runs once without gradient and again with it."""
    model = Model({"a": toy.Numbers("a.npy", dropout=0.5, norm="layer").branch()}, {"a": "a"})
    compile_encoders(model, rows=8)
    branch = model.train().branch("a")
    for rows in (8, 5, 1, 0, 3):
        x, found = torch.randn(rows, toy.WIDTH), []
        for gradient in (False, True):
            torch.manual_seed(3)
            with torch.set_grad_enabled(gradient):
                found.append(branch.represent(x).detach())
        assert found[0].equal(found[1])
