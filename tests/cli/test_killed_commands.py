"""A command that is killed by kill -9 before a file operation, again and again, ends as an undisturbed one does."""

import hashlib
import json
import signal
from pathlib import Path

import pytest
import toy
from command_processes import Disturbance, begin
from photographs import crop
from towers_small import open_clip_name, write_open_clip_weights

from mmvicreg.shards import index_file

MOMENTS = (0.1, 0.5, 0.9)
"""where in the sequence of file operations each kill comes"""


def ends_the_same(
    command: list[str], folder: Path, result, prepare=lambda here: None, *, moments=MOMENTS, first=None
) -> None:
    """``result(here)`` is what it is after an undisturbed ``command``, and nothing half-written is left.

    ``{here}`` in the command is a folder of its own for both, in which ``prepare`` puts what it works on; ``first`` is
    called in every process before the command.
    """

    def start(name: str, kill_at: int = 0) -> tuple[int, int]:
        return begin(commands[name], here[name], Disturbance(kill_at, prepare=first)).result()

    here = {name: folder / name for name in ("whole", "killed")}
    for each in here.values():
        each.mkdir()
        prepare(each)
    commands = {name: [part.replace("{here}", str(each)) for part in command] for name, each in here.items()}
    status, count = start("whole")
    assert status == 0 and count >= 3
    for moment in moments:
        killed, _ = start("killed", kill_at=max(1, round(moment * count)))
        assert killed in (-signal.SIGKILL, 0)  # what an earlier attempt kept may leave fewer operations
        if moment == moments[0]:
            assert killed == -signal.SIGKILL
    assert start("killed")[0] == 0
    assert result(here["killed"]) == result(here["whole"])
    left = [
        path for path in here["killed"].rglob("*") if path.name.endswith(".partial") or ".old" in path.name
    ]
    assert not left


def digests(folder: Path) -> dict[str, str]:
    """Content of the files that a command was asked for; a lock that a kill left behind says whose it was."""
    files = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts]
    files = [path for path in files if not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_embed(pictured_run, tmp_path):
    command = ["embed", str(pictured_run.folder), pictured_run.shards, "{here}/rows.npy", "--device", "cpu"]
    ends_the_same(command, tmp_path, digests)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hub", "onnx"])
def test_export(pictured_run, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    out = "{here}/exported" if kind == "hub" else "{here}/image.onnx"
    # An ONNX export is one file, in place at the end; the others are folders.
    moments = (0.5,) if kind == "onnx" else MOMENTS
    ends_the_same(
        ["export", str(pictured_run.folder), out, "--format", kind], tmp_path, digests, moments=moments
    )


@pytest.mark.nightly  # every process loads open_clip
def test_export_for_open_clip(tmp_path):
    weights = write_open_clip_weights(tmp_path)
    command = ["export", f"{open_clip_name()}:{weights}", "{here}/exported", "--format", "open_clip"]
    ends_the_same(command, tmp_path, digests, first=open_clip_name)


@pytest.mark.nightly  # with kills between its files; one after a checkpoint is in tests/evaluation/test_finetune.py
def test_finetune(pictured_run, tmp_path):
    for number, name in enumerate(("bird", "boat")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(4):
            crop(2 * place + number, width=64, height=64).save(tmp_path / f"pictures/{name}/{place}.png")
    command = ["finetune", str(pictured_run.folder), "{here}/tuned", "--device", "cpu", "--fraction", "1"]
    labelled = [f"--{part}={tmp_path / 'pictures'}" for part in ("train", "test")]
    ends_the_same([*command, *labelled, "--epochs", "3", "--batch-size", "4"], tmp_path, digests)


@pytest.mark.nightly
def test_report(pictured_run, tmp_path):
    command = ["report", str(pictured_run.folder), "--out", "{here}/page.html", "--device", "cpu"]
    ends_the_same([*command, "--data", f"concepts={pictured_run.shards}"], tmp_path, digests)


def test_check(tmp_path):
    def prepare(here: Path) -> None:
        toy.write_shards(here / "shards", shards=6, samples=2)

    def result(here: Path) -> object:
        (file,) = (here / "shards").glob("*.index")
        entries = index_file.read_footer(str(file))
        keys = {name: index_file.read_table(str(file), entry).keys for name, entry in entries.items()}
        report = json.loads((here / "report.json").read_text())
        return keys, report["totals"], [shard["count"] for shard in report["shards"]]

    command = ["check", "{here}/shards/*.tar", "--report", "{here}/report.json", "--processes", "1"]
    ends_the_same(command, tmp_path, result, prepare=prepare)
