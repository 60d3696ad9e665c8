"""A command that is killed by kill -9 before a file operation, again and again, ends as an undisturbed one does."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import toy

from mmvicreg.cli.main import main
from mmvicreg.shards import index_file

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "toy", "mmvicreg.evaluation.embed", "mmvicreg.preparation.check"])
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOMENTS = (0.1, 0.5, 0.9)
"""where in the sequence of file operations each kill comes"""


def operations(folder: str, happen) -> None:
    """Call ``happen`` before every operation of this process that changes a file under ``folder``."""

    def hook(event: str, arguments: tuple) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
        changes |= event == "open" and bool((arguments[2] or 0) & WRITING)
        if changes and isinstance(arguments[0], (str, os.PathLike)):
            if os.fspath(arguments[0]).startswith(folder):
                happen()

    sys.addaudithook(hook)


def run(command: list[str], folder: str, kill_at: int, counted) -> None:
    """A command in this process; SIGKILL before its operation ``kill_at``. ``counted``: how many there were."""
    os.environ["MMVICREG_CACHE"] = f"{folder}/cache"
    done = 0

    def happen() -> None:
        nonlocal done
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    operations(folder, happen)
    status = main(command)
    counted.send(done)
    sys.exit(status)


def start(command: list[str], folder: Path, *, kill_at: int = 0) -> tuple[int, int]:
    """(exit status, operations) of a command in a process of its own."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=run, args=(command, str(folder), kill_at, theirs))
    process.start()
    theirs.close()
    try:
        count = ours.recv()
    except EOFError:
        count = 0
    process.join()
    assert process.exitcode is not None
    return process.exitcode, count


def ends_the_same(command: list[str], folder: Path, result, prepare=lambda here: None) -> None:
    """``result(here)`` is what it is after an undisturbed ``command``, and nothing half-written is left.

    ``{here}`` in the command is a folder of its own for both, in which ``prepare`` puts what it works on.
    """
    here = {name: folder / name for name in ("whole", "killed")}
    for each in here.values():
        each.mkdir()
        prepare(each)
    commands = {name: [part.replace("{here}", str(each)) for part in command] for name, each in here.items()}
    status, count = start(commands["whole"], here["whole"])
    assert status == 0 and count >= 3
    for moment in MOMENTS:
        killed, _ = start(commands["killed"], here["killed"], kill_at=max(1, round(moment * count)))
        assert killed in (-signal.SIGKILL, 0)  # what an earlier attempt kept may leave fewer operations
        if moment == MOMENTS[0]:
            assert killed == -signal.SIGKILL
    assert start(commands["killed"], here["killed"])[0] == 0
    assert result(here["killed"]) == result(here["whole"])
    left = [
        path for path in here["killed"].rglob("*") if path.name.endswith(".partial") or ".old" in path.name
    ]
    assert not left


def digests(folder: Path) -> dict[str, str]:
    """Content of the files that a command was asked for."""
    files = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_embed(pictured_run, tmp_path):
    command = ["embed", str(pictured_run.folder), pictured_run.shards, "{here}/rows.npy", "--device", "cpu"]
    ends_the_same(command, tmp_path, digests)


@pytest.mark.parametrize("kind", ["hub", "onnx"])
def test_export(pictured_run, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    out = "{here}/exported" if kind == "hub" else "{here}/image.onnx"
    ends_the_same(["export", str(pictured_run.folder), out, "--format", kind], tmp_path, digests)


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
