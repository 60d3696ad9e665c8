"""What Accelerate's trackers are told is what log.jsonl says, also of a run that was interrupted and continued."""

import importlib.util
import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import interruption
import pytest
import toy

import mmvicreg as mm
from mmvicreg.runs.run import read_log
from mmvicreg.training.monitoring.logger import flat

CLOCK = ("samples_per_second", "data_wait", "memory_gb")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


def interrupted_and_continued(shards: str, out: Path, tracker: str) -> dict[int, dict[str, float]]:
    """The log of a run that was cut after step 7 and went on from the checkpoint of step 5: numbers by step."""
    config = toy.Config(train=shards, out=str(out), trackers=(tracker,))
    with pytest.raises(interruption.Interrupted):
        mm.train(
            config,
            lambda config: interruption.interrupt_at(toy.objective(config), 7, interruption.pull_the_plug),
        )
    mm.train(config, toy.objective)
    lines = [flat(line) for line in read_log(out)]
    return {int(line.pop("step")): line for line in lines}


def test_tensorboards_event_files_hold_the_log(shards: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = interrupted_and_continued(shards, tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run/run"), size_guidance={"scalars": 0}).Reload()
    assert set(events.Tags()["scalars"]) == {name for line in log.values() for name in line}
    for name in events.Tags()["scalars"]:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        told = [(step, line[name]) for step, line in log.items() if name in line]
        assert [step for step, _ in found] == [step for step, _ in told], name  # steps 6 and 7 once
        assert [value for _, value in found] == pytest.approx([value for _, value in told], rel=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackios_database_holds_the_log(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    log = interrupted_and_continued(shards, tmp_path / "run", "trackio")
    with sqlite3.connect(tmp_path / "trackio/run.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    database.close()
    starts: dict[str, list[int]] = {}
    for name, step, content in rows:
        starts.setdefault(name, []).append(step)
        assert without_clock(json.loads(content)) == pytest.approx(without_clock(log[step]), rel=1e-9)
    assert starts == {"run from step 0": list(range(1, 8)), "run from step 5": list(range(6, 13))}


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandbs_offline_files_hold_the_log(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    log = interrupted_and_continued(shards, tmp_path / "run", "wandb")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    histories = [wandb_history(file) for file in files]
    assert sorted(map(len, histories)) == [7, 7]
    for history in histories:
        for step, line in history.items():
            assert {name: line[name] for name in without_clock(log[step])} == without_clock(log[step])


def without_clock(line: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine: a step before the interruption was timed twice."""
    return {name: value for name, value in line.items() if name not in CLOCK}


def wandb_history(file: Path) -> dict[int, dict[str, Any]]:
    """Numbers by step of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for data in wandb_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            line = {name: json.loads(value) for name, value in items.items()}
            found[int(line["_step"])] = line
    return found


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format after wandb's 7 bytes: blocks of 32 kB; (crc, length, kind), data."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # too little of the block is left for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing", "Accelerate has aim"), ("clearml", "not installed: pip install clearml")],
)
def test_a_tracker_that_is_not_there_is_said_before_the_first_step(
    shards: str, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        mm.train(toy.Config(train=shards, out=str(tmp_path / "run"), trackers=(name,)), toy.objective)
    assert not (tmp_path / "run").exists()
