"""Kills real runs at random moments until they finish, and compares each with a run that was left alone.

    python benchmarks/kill_campaign.py --kills 200
    python benchmarks/kill_campaign.py --tiny               # two kills of runs of two processes, in seconds

Runs of 1, 2 and 4 processes (gloo) are killed in turn: SIGKILL of one process, SIGKILL of all, SIGTERM of all.
Every run is started again until it ends; its weights, optimizer, moving average and log must be those of the
uninterrupted run of the same layout, bit for bit. A process that outlives a dead one by more than ``patience``
seconds is a hang; one that waits for processes that died before they met ends itself
(``--guard.process-group-timeout``, here 15 seconds; a launcher would end it sooner). Last line: one JSON object.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import tyro

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
import toy
from safetensors.torch import load_file

import mmvicreg as mm
import mmvicreg.training.loop
from mmvicreg.runs.checkpoint import complete_checkpoints
from mmvicreg.runs.run import read_log
from mmvicreg.training.monitoring.watchdog import STALLED

MODES = ("kill one", "kill all", "terminate all")
TIMES = {"samples_per_second", "data_wait", "memory_gb"}


@dataclass(frozen=True)
class Campaign:
    """What to kill, and how often."""

    kills: int = 200
    processes: tuple[int, ...] = (1, 2, 4)
    seed: int = 0
    epochs: float = 8.0
    """length of a run: six steps each"""
    patience: float = 60.0
    minutes: float = 60.0
    """stop after this long, with the kills done so far"""
    tiny: bool = False
    """two kills of short runs of two processes"""


def train(config: toy.Config, rank: int, world: int, port: int) -> None:
    """One process of a run."""
    sys.stderr = open(os.devnull, "w", encoding="utf-8")
    assert sys.__stdout__ is not None
    faulthandler.register(signal.SIGUSR2, file=sys.__stdout__)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if world == 1:
        del os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"]
    mm.train(config, toy.objective)


def start(config: toy.Config, world: int) -> list[BaseProcess]:
    """The processes of a run; each a fork of this one, which has imported everything and run nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    members: list[BaseProcess] = [
        context.Process(target=train, args=(config, rank, world, port)) for rank in range(world)
    ]
    for member in members:
        member.start()
    return members


def lines(config: toy.Config) -> int:
    """Lines in the log."""
    file = Path(config.out) / "log.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def wait(members: list[BaseProcess], seconds: float) -> bool:
    """Whether all end within ``seconds``."""
    end = time.monotonic() + seconds
    for member in members:
        member.join(max(0.0, end - time.monotonic()))
    return all(member.exitcode is not None for member in members)


def attack(config: toy.Config, members: list[BaseProcess], mode: str, draw: random.Random) -> bool:
    """Kill a run at a random moment within a third of its length; False where it ended first."""
    target = lines(config) + draw.randint(0, round(2 * config.epochs))
    pause = draw.random() * 0.02
    while lines(config) < target:
        if all(member.exitcode is not None for member in members):
            return False
        time.sleep(0.001)
    time.sleep(pause)
    alive = [member for member in members if member.exitcode is None and member.pid]
    if len(alive) < len(members):
        return False
    chosen = [draw.choice(alive)] if mode == "kill one" else alive
    number = signal.SIGTERM if mode == "terminate all" else signal.SIGKILL
    for member in chosen:
        assert member.pid
        os.kill(member.pid, number)
    return True


def same(a: Path, b: Path) -> bool:
    """Last checkpoint and log, bit for bit."""
    last = [complete_checkpoints(folder / "checkpoints")[-1] for folder in (a, b)]
    for name in ("weights", "optimizer", "average"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in last)
        if one.keys() != other.keys() or any(not one[key].equal(other[key]) for key in one):
            return False
    logs = [
        [{key: value for key, value in line.items() if key not in TIMES} for line in read_log(folder)]
        for folder in (a, b)
    ]
    return logs[0] == logs[1]


def dump(members: list[BaseProcess]) -> None:
    """Print the stacks of processes that hang, and kill them."""
    for member in members:
        if member.exitcode is None and member.pid:
            os.kill(member.pid, signal.SIGUSR2)
    time.sleep(1)
    for member in members:
        member.kill()
        member.join()


@dataclass
class CampaignCounts:
    """What has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    runs: int = 0
    different: int = 0
    hangs: int = 0
    alone: int = 0

    def line(self) -> str:
        """In words."""
        return (
            f"{self.kills.total()} kills, {self.runs} runs, {self.different} different, {self.hangs} hangs, "
            f"{self.alone} ended alone"
        )


def finish(
    config: toy.Config, world: int, counts: CampaignCounts, draw: random.Random, patience: float
) -> None:
    """Start one run again and again, each time under attack, until it ends by itself."""
    while True:
        members = start(config, world)
        mode = MODES[counts.launches % len(MODES)]
        counts.launches += 1
        hit = attack(config, members, mode, draw)
        if not wait(members, patience):
            counts.hangs += 1
            print(f"hang after {mode!r} of {world}; {[each.exitcode for each in members]}", flush=True)
            dump(members)
        counts.alone += any(member.exitcode == STALLED for member in members)
        if hit:
            counts.kills[f"{mode}, {world} processes"] += 1
        elif all(member.exitcode == 0 for member in members):
            return


def campaign(options: Campaign, folder: Path) -> dict[str, object]:
    """Kills, finished runs, differences and hangs."""
    draw, began, counts = random.Random(options.seed), time.monotonic(), CampaignCounts()
    base = toy.Config(
        train=toy.write_shards(folder / "data"),
        epochs=options.epochs,
        checkpoint_every=3,
        ema_decay=0.9,
        keep_checkpoints=3,
        guard=mm.GuardConfig(diagnose_every=10, compare_every=5, process_group_timeout=15.0),
    )
    for world in options.processes:
        members = start(replace(base, out=str(folder / f"whole-{world}")), world)
        assert wait(members, 300), "the uninterrupted run did not end"
    while counts.kills.total() < options.kills or counts.runs < len(options.processes):
        if time.monotonic() - began > 60 * options.minutes:
            break
        world = options.processes[counts.runs % len(options.processes)]
        config = replace(base, out=str(folder / f"run-{counts.runs}"))
        finish(config, world, counts, draw, options.patience)
        counts.runs += 1
        counts.different += not same(folder / f"whole-{world}", Path(config.out))
        print(counts.line(), flush=True)
    return {
        "kills": counts.kills.total(),
        "runs": counts.runs,
        "different": counts.different,
        "hangs": counts.hangs,
        "ended_alone_before_they_met": counts.alone,
        "by_mode": dict(sorted(counts.kills.items())),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


if __name__ == "__main__":
    wanted = tyro.cli(Campaign)
    if wanted.tiny:
        wanted = replace(wanted, kills=2, processes=(2,), epochs=2.0)
    with tempfile.TemporaryDirectory() as temporary:
        result = campaign(wanted, Path(temporary))
    print(json.dumps(result))
    sys.exit(1 if result["different"] or result["hangs"] else 0)
