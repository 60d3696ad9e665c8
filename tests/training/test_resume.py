"""A run that was interrupted, in whatever way, ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from interruption import Interrupted, assert_same, final, interrupt_at, pull_the_plug
from safetensors.torch import load_file, save_file

import mmvicreg as mm
from mmvicreg.runs.checkpoint import SCALER, complete_checkpoints, read_tensors
from mmvicreg.runs.run import read_log
from mmvicreg.runs.tensors import ScalerState
from mmvicreg.training.monitoring.preemption import Preempted


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    mm.train(toy.Config(train=shards, out=str(out)), toy.objective)
    return out


@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 9, 10, 11])
def test_interrupted_at_any_step_ends_the_same(shards: str, whole: Path, tmp_path: Path, step: int) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"))
    with pytest.raises(Interrupted):
        mm.train(config, lambda config: interrupt_at(toy.objective(config), step, pull_the_plug))
    mm.train(config, toy.objective)
    assert_same(whole, tmp_path / "run")


def test_interrupted_again_and_again_ends_the_same(shards: str, whole: Path, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=1)
    for _ in range(5):
        with pytest.raises(Interrupted):
            mm.train(config, lambda config: interrupt_at(toy.objective(config), 2, pull_the_plug))
    mm.train(config, toy.objective)
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint_and_leaves_with_status_0(
    shards: str, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=1000)
    before = signal.getsignal(number)

    def ask() -> None:
        os.kill(os.getpid(), number)

    with pytest.raises(Preempted) as left:
        mm.train(config, lambda config: interrupt_at(toy.objective(config), 6, ask))
    assert left.value.code == 0 and signal.getsignal(number) == before
    assert [path.name for path in complete_checkpoints(tmp_path / "run/checkpoints")] == ["step-00000007"]
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events[-1]["kind"] == "preemption" and number.name in events[-1]["message"]
    mm.train(config, toy.objective)
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_process_that_was_killed_ends_the_same(shards: str, whole: Path, tmp_path: Path) -> None:
    """kill -9 of the recipe's own process, between two checkpoints and while one may be being written."""
    out = tmp_path / "run"
    command = [sys.executable, toy.__file__, "--train", shards, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        if (out / "log.jsonl").is_file() and (out / "log.jsonl").read_bytes().count(b"\n") >= 6:
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    mm.train(toy.Config(train=shards, out=str(out)), toy.objective)
    assert_same(whole, out)


def test_a_finished_run_that_is_started_again_does_nothing(shards: str, whole: Path, tmp_path: Path) -> None:
    before = (whole / "log.jsonl").read_bytes()
    assert mm.train(toy.Config(train=shards, out=str(whole)), toy.objective).step == 12
    assert (whole / "log.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    for damage in ("cut", "flip"):
        config = toy.Config(train=shards, out=str(tmp_path / damage))
        with pytest.raises(Interrupted):
            mm.train(config, lambda config: interrupt_at(toy.objective(config), 11, pull_the_plug))
        file = tmp_path / damage / "checkpoints/step-00000010/weights.safetensors"
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-10])
        mm.train(config, toy.objective)
        events = (tmp_path / damage / "events.jsonl").read_text()
        assert "step-00000010 is " + ("damaged" if damage == "flip" else "incomplete") in events
        assert_same(whole, tmp_path / damage)


def test_a_damaged_checkpoint_does_not_count_among_those_kept_nor_is_it_loaded(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=2, keep_checkpoints=1)
    at = tmp_path / "run/checkpoints"
    with pytest.raises(Interrupted):
        mm.train(
            replace(config, keep_checkpoints=9), lambda c: interrupt_at(toy.objective(c), 11, pull_the_plug)
        )
    file = at / "step-00000010/weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="weights.safetensors changed after it was written"):
        mm.load(tmp_path / "run", recipe=toy.__file__)
    with pytest.raises(Interrupted):  # two more steps: back from 8, a checkpoint of step 10 or none
        mm.train(config, lambda c: interrupt_at(toy.objective(c), 1, pull_the_plug))
    assert [path.name for path in complete_checkpoints(at)][-1] == "step-00000008"
    mm.train(config, toy.objective)
    assert_same(whole, tmp_path / "run")


def test_a_changed_configuration_is_refused_with_the_difference(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0)
    mm.train(config, toy.objective)
    other = replace(config, seed=1, a=toy.Numbers("a.npy", dropout=0.5))
    with pytest.raises(ValueError, match="another configuration") as refused:
        mm.train(other, toy.objective)
    assert "seed: 0 -> 1" in str(refused.value) and "a.dropout: 0.1 -> 0.5" in str(refused.value)
    assert mm.train(replace(config, threads=3, log_every=7), toy.objective).step == 6


def test_allowed_changes_continue_the_run(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0)
    mm.train(config, toy.objective)
    longer = replace(
        config,
        epochs=2.0,
        optimizer=replace(config.optimizer, learning_rate=1e-4),
        allow_change=("epochs", "optimizer"),
    )
    assert mm.train(longer, toy.objective).step == 12
    with pytest.raises(ValueError, match="batch_size: 16 -> 32"):
        mm.train(replace(longer, batch_size=32), toy.objective)


def test_another_batch_size_goes_on_where_the_data_was_left(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"))
    with pytest.raises(Interrupted):
        mm.train(config, lambda config: interrupt_at(toy.objective(config), 5, pull_the_plug))
    done = mm.train(replace(config, batch_size=8, allow_change=("batch_size",)), toy.objective)
    log = read_log(tmp_path / "run")
    assert done.step == 5 + (2 * 96 - 5 * 16) // 8
    assert [line["samples"] for line in log][4:7] == [80, 88, 96] and log[-1]["samples"] == 192


def test_a_raised_share_of_a_rarer_modality_resumes_bit_for_bit(tmp_path: Path) -> None:
    rarer = toy.write_shards(tmp_path / "data", missing=4)
    stream = mm.StreamConfig(minimum_fraction={"b": 0.9})
    configs = [
        toy.Config(train=rarer, out=str(tmp_path / name), stream=stream) for name in ("whole", "interrupted")
    ]
    mm.train(configs[0], toy.objective)
    with pytest.raises(Interrupted):
        mm.train(configs[1], lambda config: interrupt_at(toy.objective(config), 7, pull_the_plug))
    with pytest.raises(ValueError, match=r"stream.minimum_fraction.b: 0.9 -> 0.8"):
        mm.train(replace(configs[1], stream=mm.StreamConfig(minimum_fraction={"b": 0.8})), toy.objective)
    mm.train(configs[1], toy.objective)
    assert_same(tmp_path / "whole", tmp_path / "interrupted")


def test_moving_average_and_frozen_encoders_resume_bit_for_bit(shards: str, tmp_path: Path) -> None:
    optimizer = mm.OptimizerConfig(
        unfreeze_at={"a": 7}, max_gradient_norm=5.0, layer_decay=0.5, schedule="linear"
    )
    config = toy.Config(train=shards, out=str(tmp_path / "whole"), ema_decay=0.9, optimizer=optimizer)
    first = mm.train(config, toy.objective)
    for step in (6, 8, 11):
        again = replace(config, out=str(tmp_path / f"cut-{step}"))
        with pytest.raises(Interrupted):
            mm.train(again, lambda config: interrupt_at(toy.objective(config), step, pull_the_plug))  # noqa: B023
        mm.train(again, toy.objective)
        assert_same(tmp_path / "whole", tmp_path / f"cut-{step}")
        averages = [
            load_file(tmp_path / name / "checkpoints/step-00000012/average.safetensors")
            for name in ("whole", f"cut-{step}")
        ]
        assert all(averages[0][name].equal(averages[1][name]) for name in averages[0])
    average = mm.load(tmp_path / "whole", recipe=toy.__file__, average=True)
    pairs = list(zip(average.model.parameters(), first.model.parameters(), strict=True))
    assert not any(mine.equal(last) for mine, last in pairs)
    assert sum(float((mine - last).detach().abs().max()) for mine, last in pairs) < 1.0


def queue_objective(config: toy.Config) -> mm.Objective:
    """InfoNCE against queues of momentum embeddings: what it remembers is state of the run."""
    return mm.Objective(mm.MomentumQueue(width=16, size=64), {})


def test_momentum_branches_and_queues_resume_bit_for_bit(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "whole"), goal="infonce")
    mm.train(config, queue_objective)
    cut = replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(Interrupted):
        mm.train(cut, lambda config: interrupt_at(queue_objective(config), 8, pull_the_plug))
    mm.train(cut, queue_objective)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    momentum = [
        load_file(tmp_path / name / "checkpoints/step-00000012/momentum.safetensors")
        for name in ("whole", "cut")
    ]
    assert all(momentum[0][name].equal(momentum[1][name]) for name in momentum[0])
    assert any("queue_a" in name for name in final(tmp_path / "whole")[0])


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_are_kept(shards: str, tmp_path: Path, keep: int) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=2, keep_checkpoints=keep)
    mm.train(config, toy.objective)
    names = [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    assert names == ["step-00000008", "step-00000010", "step-00000012"][-keep:]


def test_the_scale_of_an_fp16_run_is_saved_and_put_back(tmp_path: Path) -> None:
    """A scaler that has met an overflow and one good step."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    for slope in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((parameter * slope).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    save_file(ScalerState(scaler).state_dict(), tmp_path / SCALER)
    again = torch.amp.GradScaler("cpu")
    ScalerState(again).load_state_dict(read_tensors(tmp_path, SCALER), source=tmp_path)
    assert again.state_dict() == scaler.state_dict() and scaler.state_dict()["_growth_tracker"] == 1
    assert scaler.get_scale() == 32768.0


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_fp16_on_a_gpu_trains_and_continues_bit_for_bit(shards: str, tmp_path: Path, compiled: bool) -> None:
    a, b = (toy.Numbers(f"{name}.npy", dropout=0.0) for name in "ab")
    config = toy.Config(
        train=shards, out=str(tmp_path / "run"), precision="fp16", cpu=False, a=a, b=b, compile=compiled
    )
    mm.train(config, toy.objective)
    cut = replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(Interrupted):
        mm.train(cut, lambda config: interrupt_at(toy.objective(config), 7, pull_the_plug))
    mm.train(cut, toy.objective)
    assert_same(tmp_path / "run", tmp_path / "cut")
