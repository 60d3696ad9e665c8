"""What was seen, recovered and rejected is counted over all processes and starts, and so is the budget."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import interruption
import numpy as np
import pytest
import torch
import toy

import mmvicreg as mm
from mmvicreg.runs.run import read_log
from mmvicreg.stream.ledger import Finding, Ledger, read_ledger
from mmvicreg.stream.sample_counts import (
    OTHER,
    REASONS,
    Budget,
    RunCounts,
    SampleCounts,
    TooManyRejectedError,
)
from mmvicreg.testing.processes import pool

COUNTED = ("recovered", "rejected", "missing", "substituted")


class SpoiledReader(toy.BytesReader):
    """Samples 0, 10, 20 ... are cut, 5, 15, 25 ... empty, 3, 13, 23 ... recovered."""

    def read(self, sample: mm.Sample, generator: np.random.Generator) -> mm.Item | None:
        if sample.number % 5 == 0:
            raise mm.BadSampleError(f"{'empty' if sample.number % 10 else 'cut'}: sample {sample.number}")
        item = super().read(sample, generator)
        return replace(item, recovered="padded") if item is not None and sample.number % 10 == 3 else item


@dataclass(frozen=True)
class Spoiled(toy.Numbers):
    """Numbers of which one in five cannot be read."""

    def reader(self) -> SpoiledReader:
        return SpoiledReader(self.suffix)


@dataclass(frozen=True)
class Config(toy.Config):
    a: toy.Numbers = Spoiled("a.npy", dropout=0.0)
    b: toy.Numbers = toy.Numbers("b.npy", dropout=0.0)
    stream: mm.StreamConfig = mm.StreamConfig(max_rejected_fraction=0.5)


def train(config: Config, stop: int | None = None) -> str:
    """On every process: a run, whole or interrupted at a step; how it ended."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}

    def objective(config: Config) -> mm.Objective:
        whole = toy.objective(config)
        return whole if stop is None else interruption.interrupt_at(whole, stop, interruption.pull_the_plug)

    try:
        mm.train(config, objective)
    except (interruption.Interrupted, TooManyRejectedError) as error:
        return f"{type(error).__name__} {error}"
    return "finished"


def accounts(folder: Path) -> list[dict]:
    return [line["data"] for line in read_log(folder)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process: two epochs of 96 samples."""
    out = tmp_path_factory.mktemp("whole") / "run"
    mm.train(Config(train=shards, out=str(out)), toy.objective)
    return out


def test_every_line_of_the_log_and_the_summary_count_what_the_ledger_names(whole: Path) -> None:
    findings = read_ledger(str(whole))
    for number, found in enumerate(accounts(whole)):
        so_far = [finding for finding in findings if finding.step <= number]
        assert found["recovered"] == sum(finding.verdict == "recovered" for finding in so_far)
        kinds = [finding.kind for finding in so_far if finding.verdict == "rejected"]
        assert found["rejected"] == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        assert found["seen"] == 16 * (number + 1) == found["unique"] + found["duplicate"]
        assert found["unique"] == min(96, found["seen"]) == 96 - found["never_seen"]
    last = accounts(whole)[-1]
    assert last["rejected"] == {"cut": 20, "empty": 20} and last["recovered"] == 20
    assert last["missing"] == {"a": 40, "b": 2 * 14}
    summary = json.loads((whole / "data.json").read_text())
    assert {name: summary[name] for name in last} == last
    assert sum(summary["worst_shards"].values()) == 40


@pytest.mark.slow
def test_two_processes_and_interrupted_runs_count_what_one_whole_run_counts(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    config = Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=4)
    assert pool(2).run(train, config, 6) == ["Interrupted "] * 2
    with pytest.raises(interruption.Interrupted):
        mm.train(config, lambda c: interruption.interrupt_at(toy.objective(c), 5, interruption.pull_the_plug))
    assert pool(2).run(train, config) == ["finished"] * 2
    assert accounts(tmp_path / "run") == accounts(whole)
    assert (tmp_path / "run/data.json").read_bytes() == (whole / "data.json").read_bytes()


@pytest.mark.slow
def test_a_spent_budget_stops_all_processes_and_names_the_worst(tmp_path: Path) -> None:
    train_on = toy.write_shards(tmp_path / "data", shards=4, samples=160)
    config = Config(
        train=train_on, out=str(tmp_path / "run"), batch_size=512, epochs=20.0, stream=mm.StreamConfig()
    )
    ended = pool(2).run(train, config)
    assert ended[0] == ended[1]
    assert ended[0].startswith(
        "TooManyRejectedError 2048 of 10240 samples were rejected, the budget is 1.00%"
    )
    assert (
        "'cut': 1024, 'empty': 1024" in ended[0] and "{'train-000.tar': 512, 'train-001.tar': 512" in ended[0]
    )
    assert read_log(tmp_path / "run")[-1]["step"] == 20


def count_and_check(budget: Budget) -> list[str]:
    """On every process: only rank 1 rejects, more in every round; what the check says."""
    rank = torch.distributed.get_rank()
    mine = SampleCounts()
    whole = RunCounts(
        SampleCounts(seen=100, shards={"old.tar": 1}, rejected={"old": 1}), budget, device=torch.device("cpu")
    )
    whole.follow(mine)
    said = []
    for _ in range(3):
        mine.seen += 100
        for shard in range(5 * rank):
            mine.add(Finding(0, 0, "a", f"{shard}.tar", "key", 0, "rejected", "bad: very"))
        counts = whole.sum()
        assert (
            counts.seen == 100 + mine.seen * 2
            and counts.rejected.get("bad", 0) * 2 == (counts.seen - 100) // 20
        )
        try:
            whole.check()
            said.append("")
        except TooManyRejectedError as error:
            said.append(str(error))
    return said


def test_a_budget_spent_by_one_process_alone_is_not_spent() -> None:
    for rank in (0, 1):
        assert pool(2).run(count_and_check, Budget(max_fraction=0.04, after=100))[rank] == ["", "", ""]
    one, other = pool(2).run(count_and_check, Budget(max_fraction=0.022, after=400))
    assert one == other and [bool(text) for text in one] == [False, False, True]
    assert "16 of 700 samples" in one[2] and "'bad': 15, 'old': 1" in one[2] and "'0.tar': 3" in one[2]


def test_reasons_without_end_stay_bounded() -> None:
    with Ledger() as ledger:
        ledger.write([Finding(0, 0, "a", "x.tar", "key", n, "rejected", f"reason {n}") for n in range(300)])
    assert ledger.counts.rejections == 300 and len(ledger.counts.rejected) == REASONS + 1
    assert ledger.counts.rejected[OTHER] == 300 - REASONS
