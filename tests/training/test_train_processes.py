"""Runs on real gloo processes: the same numbers as one process, and continued on any number of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import interruption
import pytest
import torch
import toy
from gloo_training import assert_close, plain, train, unplug
from safetensors.torch import load_file

import mmvicreg as mm
from mmvicreg.runs.run import read_log
from mmvicreg.testing.processes import pool
from mmvicreg.training.monitoring.guards import ProcessesDifferError, compare_processes


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("goal", ["vicreg", "sigreg", "infonce"])
def test_two_processes_train_as_one(shards: str, tmp_path: Path, goal: Any) -> None:
    mm.train(plain(shards, tmp_path / "one", goal=goal), toy.objective)
    assert pool(2).run(train, plain(shards, tmp_path / "two", goal=goal)) == [12, 12]
    assert_close(tmp_path / "one", tmp_path / "two")


def test_a_run_continues_on_another_number_of_processes(shards: str, tmp_path: Path) -> None:
    mm.train(plain(shards, tmp_path / "one"), toy.objective)
    for first, then in ((2, 1), (1, 2)):
        config = plain(shards, tmp_path / f"{first}-{then}")
        for count, stop in ((first, 7), (then, None)):
            if count == 2:
                pool(2).run(train, config, stop)
            elif stop is None:
                mm.train(config, toy.objective)
            else:
                with pytest.raises(interruption.Interrupted):
                    mm.train(
                        config, lambda config: interruption.interrupt_at(toy.objective(config), 7, unplug)
                    )
        assert_close(tmp_path / "one", tmp_path / f"{first}-{then}")


@pytest.mark.parametrize(("processes", "stops"), [(2, (3, 8)), (4, (7,))])
@pytest.mark.slow
def test_several_processes_resume_bit_for_bit(
    shards: str, tmp_path: Path, processes: int, stops: tuple[int, ...]
) -> None:
    """Four: the order in which a gradient is summed shows from three processes on."""
    config = toy.Config(train=shards, out=str(tmp_path / "whole"), ema_decay=0.9)
    pool(processes).run(train, config)
    for stop in stops:
        cut = replace(config, out=str(tmp_path / f"cut-{stop}"))
        assert pool(processes).run(train, cut, stop) == [-1] * processes
        pool(processes).run(train, cut)
        interruption.assert_same(tmp_path / "whole", tmp_path / f"cut-{stop}")


@pytest.mark.slow
def test_chunks_and_shards_of_the_weights_give_the_same_run(shards: str, tmp_path: Path) -> None:
    layer = [toy.Numbers(f"{name}.npy", dropout=0.0, norm="layer") for name in "ab"]
    config = replace(plain(shards, tmp_path / "one"), a=layer[0], b=layer[1])
    mm.train(config, toy.objective)
    for name, change in (
        ("chunks", {"gradient_cache_size": 3}),
        ("fsdp", {"parallel": "fsdp"}),
        ("recompute", {"activation_checkpointing": True}),
        ("freed", {"optimizer": mm.OptimizerConfig(unfreeze_at={"a": 0})}),
    ):
        pool(2).run(train, replace(config, out=str(tmp_path / name), **change))
        assert_close(tmp_path / "one", tmp_path / name)


@pytest.mark.slow
def test_a_sharded_run_continues_bit_for_bit(shards: str, tmp_path: Path) -> None:
    config = plain(shards, tmp_path / "whole", parallel="fsdp")
    pool(2).run(train, config)
    pool(2).run(train, replace(config, out=str(tmp_path / "cut")), 7)
    pool(2).run(train, replace(config, out=str(tmp_path / "cut")))
    interruption.assert_same(tmp_path / "whole", tmp_path / "cut")


def parameters(config: toy.Config) -> dict[str, torch.Tensor]:
    """On every process: what a run gives back, used by one process alone."""
    train(config)
    model = mm.train(config, toy.objective).model
    if torch.distributed.get_rank() == 0:
        assert model.branches["a"](torch.zeros(3, toy.WIDTH)).z.shape == (3, 16)
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "column_parallel"])
@pytest.mark.slow
def test_probes_of_processes_with_unequal_batches_are_those_of_one(
    shards: str, tmp_path: Path, parallel: Any
) -> None:
    """129 held-out samples: 64 make one batch of a process, 65 two. The model that comes back is whole."""
    held_out = toy.write_shards(tmp_path / "data", shards=1, samples=129, missing=2, seed=3)
    a, b = (toy.Numbers(f"{name}.npy", dropout=0.0, norm="layer") for name in "ab")
    probe = mm.ValidationConfig(data=held_out, every=4, label="class")
    config = plain(shards, tmp_path / "one", a=a, b=b, validation=probe)
    mm.train(config, toy.objective)
    both = pool(2).run(parameters, replace(config, out=str(tmp_path / "two"), parallel=parallel))
    assert_close(tmp_path / "one", tmp_path / "two")
    for left, right in zip(*(read_log(tmp_path / name) for name in ("one", "two")), strict=True):
        assert ("validation" in left) == (left["step"] in (4, 8, 12))
        assert right.get("validation") == pytest.approx(left.get("validation"), abs=0.02)
    saved = load_file(tmp_path / "two/checkpoints/step-00000012/weights.safetensors")
    if parallel != "column_parallel":
        for found in both:
            assert all(saved[f"model.{name}"].equal(value) for name, value in found.items())


def test_encoders_freed_during_the_run_are_the_same_on_both_processes(shards: str, tmp_path: Path) -> None:
    config = plain(shards, tmp_path / "one", optimizer=mm.OptimizerConfig(unfreeze_at={"a": 6}))
    mm.train(config, toy.objective)
    pool(2).run(train, replace(config, out=str(tmp_path / "two"), guard=mm.GuardConfig(compare_every=1)))
    assert_close(tmp_path / "one", tmp_path / "two")


def drift() -> str:
    """One process changes one weight by one bit."""
    last = torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), last)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        compare_processes(model, 7)
        if torch.distributed.get_rank() == 1:
            last.weight[0, 0] = torch.nextafter(last.weight[0, 0], torch.tensor(2.0))
    try:
        compare_processes(model, 8)
    except ProcessesDifferError as error:
        return str(error)
    return ""


def test_processes_that_drift_apart_are_named() -> None:
    for message in pool(2).run(drift):
        assert "after step 8 the weights of process 1" in message and "1.weight" in message
