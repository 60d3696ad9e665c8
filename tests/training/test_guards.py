"""Faults put into real runs end as documented: nothing lost, nothing hangs, everything explained."""

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import interruption
import pytest
import torch
import toy
from safetensors.torch import load_file

import mmvicreg as mm
from mmvicreg.runs.checkpoint_writer import CheckpointWriter
from mmvicreg.runs.run import read_log
from mmvicreg.training.monitoring.collapse import find_faults, measure
from mmvicreg.training.monitoring.guards import CollapseError, NonFiniteLossError
from mmvicreg.training.monitoring.watchdog import STALLED


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


def events(folder: Path) -> list[dict[str, str]]:
    """What the run wrote down in words."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint of a toy run."""
    return load_file(folder / "checkpoints/step-00000012/weights.safetensors")


def test_a_loss_that_is_not_finite_stops_with_terms_step_and_sample(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "data", poison=40)
    with pytest.raises(NonFiniteLossError) as stopped:
        mm.train(toy.Config(train=shards, out=str(tmp_path / "run")), toy.objective)
    message = str(stopped.value)
    assert "a/sigreg: nan" in message and "a-b/invariance: nan" in message and "b/sigreg: nan" not in message
    assert "samples with inputs that are not finite: s00040\n" in message and "the loss of step" in message


def test_steps_within_the_budget_are_left_out_and_nothing_of_them_stays(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "data", poison=40)
    config = toy.Config(
        train=shards, out=str(tmp_path / "run"), guard=mm.GuardConfig(max_skipped_steps=1), ema_decay=0.5
    )
    mm.train(config, toy.objective)
    assert [event["kind"] for event in events(tmp_path / "run")] == ["skip", "skip"]  # once an epoch
    for file in ("weights", "optimizer", "average"):
        found = load_file(tmp_path / f"run/checkpoints/step-00000012/{file}.safetensors")
        assert all(bool(torch.isfinite(value).all()) for value in found.values())


def test_collapse_is_told_apart_and_explained_in_words() -> None:
    torch.manual_seed(0)
    good, other = torch.randn(200, 16), torch.randn(200, 16)
    everyone = {"a": torch.ones(200, dtype=torch.bool), "b": torch.ones(200, dtype=torch.bool)}
    config = mm.GuardConfig(min_rank=0.15, max_sigreg=4.0)
    clusters = torch.where(torch.rand(200, 16) < 0.5, -1.0, 1.0) * torch.rand(200, 1).round().add(0.05)
    cases = {
        "a maps everything to nearly one point": (torch.ones(200, 16) + 1e-4 * good, good),
        "a uses 6.2% of its dimensions": (torch.randn(200, 1) * torch.tensor([1.0, -1.0] * 8), good),
        "a is far from a normal distribution": (clusters, clusters + good),
        "no closer than shuffled ones": (good, other),
    }
    for words, (a, b) in cases.items():
        found = find_faults(measure({"a": a, "b": b}, everyone), config)
        assert len(found) == 1 and words in next(iter(found.values())), found
    assert not find_faults(measure({"a": good, "b": good + 0.5 * other}, everyone), config)
    few = {name: torch.arange(200) < 3 for name in "ab"}
    assert not measure({"a": good, "b": other}, few).views


def test_a_branch_that_collapses_is_noticed_in_a_run(tmp_path: Path, shards: str) -> None:
    config = toy.Config(
        train=shards,
        out=str(tmp_path / "run"),
        epochs=40.0,
        log_every=50,
        checkpoint_every=1000,
        optimizer=mm.OptimizerConfig(learning_rate=1e-2),
        guard=mm.GuardConfig(diagnose_every=10, diagnose_after=20, patience=2, action="stop"),
    )
    with pytest.raises(
        CollapseError, match="maps everything to nearly one point|of its dimensions|no closer"
    ):
        mm.train(config, lambda config: mm.Objective(mm.Invariance(25.0), {}))


def test_rolling_back_lowers_the_learning_rate_and_stops_at_last(tmp_path: Path, shards: str) -> None:
    alarm = mm.GuardConfig(
        diagnose_every=4, diagnose_after=1, patience=1, action="rollback", min_spread=10.0, max_rollbacks=2
    )
    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=2, guard=alarm)
    with pytest.raises(CollapseError, match="step 4: a maps everything"):
        mm.train(config, toy.objective)
    told = [event["message"] for event in events(tmp_path / "run") if event["kind"] == "rollback"]
    assert len(told) == 2 and "Back to step 2, learning rates times 0.25" in told[1]
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3]
    rates = [line["learning_rate"]["a"] for line in read_log(tmp_path / "run")]
    assert rates[2] == pytest.approx(1e-3 * 3 / 6 * 0.25)


def test_no_checkpoint_to_go_back_to_stops(tmp_path: Path, shards: str) -> None:
    alarm = mm.GuardConfig(diagnose_every=2, diagnose_after=1, patience=1, action="rollback", min_spread=10.0)
    with pytest.raises(CollapseError, match="no checkpoint to go back to"):
        mm.train(toy.Config(train=shards, out=str(tmp_path / "run"), guard=alarm), toy.objective)


@pytest.mark.slow
def test_a_disk_that_stalls_is_explained_and_ends_the_process(tmp_path: Path, shards: str) -> None:
    """The recipe from the command line: reading one sample takes for ever."""
    options = ["--train", shards, "--out", str(tmp_path / "run"), "--a.stall", "600"]
    options += ["--guard.stall-warning", "1", "--guard.stall-stop", "4"]
    done = subprocess.run([sys.executable, toy.__file__, *options], capture_output=True, timeout=300)
    assert done.returncode == STALLED, done.stderr
    messages = [event["message"] for event in events(tmp_path / "run")]
    assert any("waiting for the data of step" in message for message in messages)
    assert "ends itself" in messages[-1]
    assert "in read" in (tmp_path / "run/stacks-0.txt").read_text()


def test_a_full_disk_keeps_the_run_going_and_the_old_checkpoints(tmp_path: Path, shards: str) -> None:
    """The kernel refuses files above a limit for a while, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, before[1]))

    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=4)
    try:
        with pytest.raises(OSError, match=r"checkpoint of step 12 was not written.* MB are free"):
            mm.train(config, lambda config: interruption.interrupt_at(toy.objective(config), 6, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    assert "checkpoint of step 8 was not written" in events(tmp_path / "run")[0]["message"]
    mm.train(config, toy.objective)
    mm.train(replace(config, out=str(tmp_path / "whole")), toy.objective)
    interruption.assert_same(tmp_path / "whole", tmp_path / "run")


def test_minutes_between_checkpoints_are_not_those_of_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = CheckpointWriter(tmp_path, keep=1, every=10**9, minutes=1e-3)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not keeper.due(1)
    time.sleep(0.07)
    assert keeper.due(1)
    keeper.close()


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour forward, a day back, a century forward at every look at the wall clock."""
    guard = mm.GuardConfig(diagnose_every=5, stall_warning=20.0, stall_stop=60.0)
    config = toy.Config(train=shards, out=str(tmp_path / "whole"), checkpoint_minutes=0.5, guard=guard)
    mm.train(config, toy.objective)
    jumps = itertools.cycle([3600.0, -86400.0, 3.15e9])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    mm.train(replace(config, out=str(tmp_path / "run")), toy.objective)
    interruption.assert_same(tmp_path / "whole", tmp_path / "run")
    assert not (tmp_path / "run/events.jsonl").exists() and not list(tmp_path.glob("run/stacks*"))
    names = [sorted(path.name for path in tmp_path.glob(f"{run}/checkpoints/*")) for run in ("whole", "run")]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_process_whose_partner_died_before_they_met_says_so_and_ends(tmp_path: Path, shards: str) -> None:
    """Process 1 of 2 never comes; torch itself would wait half an hour."""
    command = [sys.executable, toy.__file__, "--train", shards, "--out", str(tmp_path / "run")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = {**os.environ, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [*command, "--guard.process-group-timeout", "2"],
        env=environment,
        capture_output=True,
        timeout=300,
        text=True,
    )
    assert done.returncode == STALLED, done.stderr
    assert "did not meet within 2 s (--guard.process-group-timeout): one of them died" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_probe_changes_no_bit_of_training_and_keeps_the_best(tmp_path: Path, shards: str) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "without"), checkpoint_every=3, keep_checkpoints=1)
    mm.train(config, toy.objective)
    probe = mm.ValidationConfig(data=shards, every=3, label="class", neighbours=5)
    best = "a_to_b/recall_at_1"
    mm.train(replace(config, out=str(tmp_path / "with"), validation=probe, best_metric=best), toy.objective)
    one, other = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert all(one[name].equal(other[name]) for name in one)
    log = {line["step"]: line["validation"] for line in read_log(tmp_path / "with") if "validation" in line}
    assert list(log) == [3, 6, 9, 12]
    assert log[12]["a/knn"] > 0.6 and log[12]["a/linear"] > 0.6 and log[12]["a_to_b/chance_at_1"] < 0.02
    top = max(log, key=lambda step: (log[step][best], step))
    kept = sorted(int(path.name[5:]) for path in (tmp_path / "with/checkpoints").iterdir())
    assert kept == sorted({top, 12})
    assert mm.load(tmp_path / "with", recipe=toy.__file__, step="best").step == top
