"""A run killed with SIGKILL at any moment and resumed on other ranks, threads and batches loses nothing.

The longer run: ``KILL_TURNS=100 python -m pytest tests/test_stream_killed.py -m nightly``; result in docs/log.md.
"""

import hashlib
import json
import multiprocessing
import os
import random
import time
from dataclasses import asdict
from typing import Any

import pytest
from photographs import Photo, Words, write_shards

from mmvicreg.plan.plan import Cursor, Plan
from mmvicreg.shards.index import open_index
from mmvicreg.stream.stream import Stream

SAMPLES, BATCH, EPOCHS = 150, 16, 3
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sklearn.datasets", "webdataset", "torch", "simplejpeg"])


def train(paths, folder, rank, world, threads, batch, cursor, stop, pause):
    """A rank of a run: one line a step with every row's sample, epoch and hash, then the cursor."""
    index = open_index(paths)
    plan = Plan(index.counts, seed=9, global_batch=batch, lanes=4, window=16, start=Cursor(**cursor))
    loader = Stream(
        index,
        plan,
        readers={"image": Photo(), "text": Words()},
        start=cursor["step"],
        stop=stop,
        rank=rank,
        world=world,
        threads=threads,
    )
    with open(os.path.join(folder, f"rank-{rank}.jsonl"), "w", encoding="utf-8") as file:
        for b in loader:
            rows = [
                [number, hashlib.sha256(pixels.numpy().tobytes() + words.numpy().tobytes()).hexdigest()]
                for number, pixels, words in zip(
                    b.numbers.tolist(), b.inputs["image"].contiguous(), b.inputs["text"], strict=True
                )
            ]
            file.write(json.dumps([b.step, rows, asdict(plan.cursor(b.step + 1))]) + "\n")
            file.flush()
            time.sleep(pause)


def launch(paths, folder, *, world, threads, batch=BATCH, cursor=None, stop=None, pause=0.0):
    folder.mkdir()
    begin = cursor or asdict(Cursor())
    running = [
        CONTEXT.Process(target=train, args=(paths, folder, rank, world, threads, batch, begin, stop, pause))
        for rank in range(world)
    ]
    for process in running:
        process.start()
    return running


def rows_of(folder, world):
    """(rows in global order of the steps that every rank finished, cursor after them)."""
    ranks = []
    for rank in range(world):
        path = folder / f"rank-{rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        ranks.append([json.loads(line) for line in lines if line.endswith("\n")])
    whole = min(map(len, ranks))
    rows = [row for step in range(whole) for lines in ranks for row in lines[step][1]]
    return rows, (ranks[0][whole - 1][2] if whole else None)


def kill_somewhere(running, folder, world, moment):
    deadline = time.monotonic() + 60
    while len(rows_of(folder, world)[0]) < moment and any(p.is_alive() for p in running):
        assert time.monotonic() < deadline, "the run does not advance"
        time.sleep(0.005)
    for process in running:
        process.kill()
    for process in running:
        process.join()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [40, 10, 55, 45])


@pytest.fixture(scope="module")
def uninterrupted(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    (process,) = launch(paths, folder, world=1, threads=1, stop=EPOCHS * SAMPLES // BATCH)
    process.join()
    assert process.exitcode == 0
    return rows_of(folder, 1)[0]


def chain(paths, tmp_path, uninterrupted, layouts, draw):
    """Kill the run once on each layout but the last; return all rows of the finished steps, in order."""
    rows: list[Any] = []
    cursor = None
    for turn, (world, threads) in enumerate(layouts):
        folder = tmp_path / f"turn-{turn}"
        last = turn == len(layouts) - 1
        stop = len(uninterrupted) // BATCH
        running = launch(
            paths, folder, world=world, threads=threads, cursor=cursor, stop=stop, pause=0 if last else 0.01
        )
        if last:
            for process in running:
                process.join()
                assert process.exitcode == 0
        else:
            left = len(uninterrupted) - len(rows)
            kill_somewhere(running, folder, world, draw.randrange(0, max(1, left // 2)))
        done, reached = rows_of(folder, world)
        rows += done
        cursor = reached or cursor
    return rows


def test_killed_and_resumed_on_other_layouts_equals_uninterrupted(paths, tmp_path, uninterrupted):
    rows = chain(paths, tmp_path, uninterrupted, [(2, 1), (4, 2), (1, 3)], random.Random(0))
    assert rows == uninterrupted


@pytest.mark.nightly
@pytest.mark.parametrize("turn", range(int(os.environ.get("KILL_TURNS", "5"))))
def test_killed_many_times_at_random_moments_equals_uninterrupted(paths, tmp_path, uninterrupted, turn):
    draw = random.Random(turn)
    layouts = [(draw.choice([1, 2, 4]), draw.choice([1, 2, 3])) for _ in range(6)]
    assert chain(paths, tmp_path, uninterrupted, layouts, draw) == uninterrupted


def test_killed_and_resumed_with_another_global_batch_loses_and_repeats_nothing(
    paths, tmp_path, uninterrupted
):
    first = launch(paths, tmp_path / "first", world=2, threads=1, stop=100, pause=0.01)
    kill_somewhere(first, tmp_path / "first", 2, 70)
    rows, cursor = rows_of(tmp_path / "first", 2)
    assert cursor is not None and cursor["consumed"] == len(rows)
    left = EPOCHS * SAMPLES - len(rows)
    second = launch(
        paths,
        tmp_path / "second",
        world=2,
        threads=2,
        batch=10,
        cursor=cursor,
        stop=cursor["step"] - (-left // 10),
    )
    for process in second:
        process.join()
    rows = (rows + rows_of(tmp_path / "second", 2)[0])[: EPOCHS * SAMPLES]
    for epoch in range(EPOCHS):
        mine, theirs = (sorted(r[epoch * SAMPLES : (epoch + 1) * SAMPLES]) for r in (rows, uninterrupted))
        known = {number: digest for number, digest in map(tuple, theirs)}
        assert [number for number, _ in mine] == list(range(SAMPLES))
        assert all(known.get(number, digest) == digest for number, digest in mine)
