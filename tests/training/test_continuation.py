"""What a continued run must be: the same objective, views, readers and data; a refusal changes no file."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import toy
from interruption import Interrupted, assert_same, interrupt_at, pull_the_plug

import mmvicreg as mm
from mmvicreg.runs.run import read_config, read_log
from mmvicreg.training.monitoring.guards import CollapseError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.write_shards(tmp_path_factory.mktemp("data"))


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def heavier(config: toy.Config) -> mm.Objective:
    return mm.Objective(mm.Invariance(1.0), {"a": mm.SIGReg(), "b": mm.SIGReg()})


def of_another_kind(config: toy.Config) -> mm.Objective:
    return mm.Objective(mm.Invariance(25.0), {"a": mm.VICReg(), "b": mm.SIGReg()})


def reference(config: toy.Config) -> mm.Objective:
    return mm.Objective(mm.Invariance(25.0), {"a": mm.SIGReg(), "b": mm.SIGReg()})


@pytest.mark.parametrize("stop", [7, None])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (heavier, "objective.alignments.a-b.weight: 25.0 -> 1.0"),
        (of_another_kind, "objective.regularizers.a.class: 'SIGReg' -> 'VICReg'"),
    ],
)
def test_a_changed_objective_is_refused_by_name_and_no_file_changes(
    shards: str, tmp_path: Path, stop: int | None, other: Callable[[toy.Config], mm.Objective], words: str
) -> None:
    """Of a run that was interrupted, and of one that is finished."""
    config = toy.Config(train=shards, out=str(tmp_path / "run"))
    if stop is None:
        mm.train(config, reference)
    else:
        with pytest.raises(Interrupted):
            mm.train(config, lambda config: interrupt_at(reference(config), stop, pull_the_plug))
    before = content(tmp_path / "run")
    with pytest.raises(ValueError, match="another configuration") as refused:
        mm.train(config, other)
    assert words in str(refused.value)
    assert content(tmp_path / "run") == before
    mm.load(tmp_path / "run", recipe=toy.__file__)


def test_an_allowed_change_of_the_objective_continues(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0)
    mm.train(config, reference)
    longer = replace(config, epochs=2.0, allow_change=("epochs", "objective.alignments"))
    assert mm.train(longer, heavier).step == 12
    saved = read_config(tmp_path / "run")["objective"]
    assert saved["alignments"]["a-b"]["weight"] == 1.0 and saved["class"].endswith("Objective")


def test_other_data_are_refused_before_a_file_changes(shards: str, tmp_path: Path) -> None:
    train = toy.write_shards(tmp_path / "data")
    config = toy.Config(train=train, out=str(tmp_path / "run"), epochs=1.0)
    mm.train(config, toy.objective)
    before = content(tmp_path / "run")
    toy.write_shards(tmp_path / "data", seed=1, missing=5)
    with pytest.raises(ValueError, match="their fingerprint was"):
        mm.train(replace(config, epochs=2.0, allow_change=("epochs",)), toy.objective)
    assert content(tmp_path / "run") == before


@dataclass(frozen=True)
class TwoViews(toy.Config):
    """Views are code: they may change while every field stays."""

    def views(self) -> dict[str, str]:
        return VIEWS

    def readers(self) -> dict[str, str]:
        return {"a": "a", "b": "b"}


VIEWS = {"a": "a", "b": "b"}


def test_changed_views_are_refused(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TwoViews(train=shards, out=str(tmp_path / "run"), epochs=1.0)
    mm.train(config, toy.objective)
    monkeypatch.setitem(VIEWS, "b", "a")
    with pytest.raises(ValueError, match=r"views\(\).b: 'b' -> 'a'"):
        mm.train(config, lambda config: mm.Objective(mm.Invariance(25.0), {"a": mm.SIGReg()}))


def test_a_modality_whose_source_changed_is_an_event(shards: str, tmp_path: Path) -> None:
    config = toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0)
    mm.train(config, toy.objective)
    file = tmp_path / "run/config.json"
    saved = json.loads(file.read_text())
    assert set(saved["sources"]) == {"Config", "Numbers"}
    saved["sources"]["Numbers"] = "0" * 16
    file.write_text(json.dumps(saved))
    mm.train(config, toy.objective)
    assert "the source of Numbers changed" in (tmp_path / "run/events.jsonl").read_text()


def test_an_alarm_after_a_restart_comes_when_the_uninterrupted_run_has_it(
    shards: str, tmp_path: Path
) -> None:
    """Two bad checks of three are state: steps 2 and 4 are bad, the run is cut, step 6 is the alarm."""
    guard = mm.GuardConfig(diagnose_every=2, diagnose_after=1, patience=3, action="stop", min_spread=10.0)
    config = toy.Config(train=shards, out=str(tmp_path / "whole"), checkpoint_every=1, guard=guard)
    with pytest.raises(CollapseError, match="step 6: a maps everything"):
        mm.train(config, toy.objective)
    cut = replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(Interrupted):
        mm.train(cut, lambda config: interrupt_at(toy.objective(config), 5, pull_the_plug))
    with pytest.raises(CollapseError, match="step 6: a maps everything"):
        mm.train(cut, toy.objective)


def test_skipped_steps_in_a_row_are_counted_over_a_restart(tmp_path: Path) -> None:
    poisoned = toy.write_shards(tmp_path / "data", poison=40)
    guard = mm.GuardConfig(max_skipped_steps=1)
    config = toy.Config(train=poisoned, out=str(tmp_path / "run"), checkpoint_every=1, guard=guard)
    mm.train(config, toy.objective)
    states = [
        json.loads(path.read_text()) for path in sorted((tmp_path / "run").glob("checkpoints/*/state.json"))
    ]
    assert all(state["parts"]["skipped_steps"] == {"consecutive": 0} for state in states[-1:])
    steps = {json.loads(line)["step"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()}
    cut = replace(config, out=str(tmp_path / "cut"), keep_checkpoints=99)
    mm.train(cut, toy.objective)
    for step in steps:
        path = tmp_path / f"cut/checkpoints/step-{step + 1:08d}/state.json"
        assert json.loads(path.read_text())["parts"]["skipped_steps"] == {"consecutive": 1}


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_and_one_line_and_the_run_ends_the_same(
    shards: str, tmp_path: Path
) -> None:
    """A run shorter than checkpoint_every loses nothing. Reading one sample takes a second: time to interrupt."""
    out = tmp_path / "run"
    command = [sys.executable, toy.__file__, "--train", shards, "--out", str(out), "--a.stall", "1"]
    command += ["--checkpoint-every", "1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        if (out / "log.jsonl").is_file() and (out / "log.jsonl").read_bytes().count(b"\n") >= 1:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert error.count("the same command continues the run") == 1 and "stopped by Ctrl-C after step" in error
    config = toy.Config(train=shards, out=str(out), checkpoint_every=1000)
    done = len(read_log(out))
    again = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0 and f"continues from the checkpoint of step {done}" in again.stderr
    mm.train(replace(config, out=str(tmp_path / "whole")), toy.objective)
    assert_same(tmp_path / "whole", out)


def test_files_of_a_run_have_the_modes_that_the_umask_gives(shards: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        mm.train(toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0), toy.objective)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.name == "weights.safetensors" for path in files)
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}


def test_a_tilde_in_out_is_the_home_folder(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = mm.train(toy.Config(train=shards, out="~/run", epochs=1.0), toy.objective)
    assert run.folder == tmp_path / "run" and not (tmp_path / "~").exists()


def test_a_run_killed_before_its_configuration_was_written_can_be_started(
    shards: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.config.json.partial").write_text('{"config"')
    assert mm.train(toy.Config(train=shards, out=str(tmp_path / "run"), epochs=1.0), toy.objective).step == 6


@pytest.mark.slow
def test_a_second_run_on_the_same_folder_is_refused_and_a_dead_one_is_taken_over(
    shards: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, toy.__file__, "--train", shards, "--out", str(out), "--a.stall", "60"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    config = toy.Config(train=shards, out=str(out))
    try:
        end = time.monotonic() + 240
        while time.monotonic() < end and first.poll() is None and not (out / "config.json").is_file():
            time.sleep(0.01)
        with pytest.raises(OSError, match=rf"process {first.pid} on .* at work there since .* \(training\)"):
            mm.train(config, toy.objective)
    finally:
        first.kill()
        first.wait()
    assert mm.train(config, toy.objective).step == 12
    assert not (out / ".lock").exists()


def test_a_full_disk_keeps_the_log_and_the_run_goes_on(shards: str, tmp_path: Path) -> None:
    """The kernel refuses to append to the log for three steps, as a full disk does; no line is lost."""
    config = toy.Config(train=shards, out=str(tmp_path / "run"), checkpoint_every=1000, log_every=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    steps: list[int] = []

    def fill() -> None:
        steps.append(len(steps))
        size = (tmp_path / "run/log.jsonl").stat().st_size
        full = (size + 10, before[1])  # ten bytes of the next line fit
        resource.setrlimit(resource.RLIMIT_FSIZE, full if len(steps) <= 3 else before)

    try:
        mm.train(config, lambda config: interrupt_at(toy.objective(config), 5, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, 13))
    mm.train(replace(config, out=str(tmp_path / "whole")), toy.objective)
    assert_same(tmp_path / "whole", tmp_path / "run")
